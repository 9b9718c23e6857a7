"use strict";
// The charts, drawn by uPlot. A row of figures covers the seconds before its time: what was measured over them is drawn
// over just these, a gauge holds from the moment when it was read until the next, and where there is no row there is none.

const READ = {
  tps: (p) => p.tps, qps: (p) => p.qps, recv: (p) => p.recv, sent: (p) => p.sent,
  ca: (p) => p.ca, cw: (p) => p.cw, sa: (p) => p.sa, si: (p) => p.si, size: (p) => p.size,
};
const quantile = (name, place) => (p) => p[name] ? p[name][place] : null;
const timing = (name) => (rows) => rows.some((p) => p[name] && p[name][1] != null)
  ? ["p50", "p95", "p99"].map((word, place) => ({ name: word, read: quantile(name, place + 1), show: time }))
  : [{ name: "mean", read: quantile(name, 0), show: time }];
const always = (...series) => () => series;
const INCLUDED = "from the arrival of a query to the end of its answer, the wait for a server included";

const CHARTS = [
  { title: "Throughput per second", series: always(
    { name: "transactions", read: READ.tps, show: plain, fill: true }, { name: "queries", read: READ.qps, show: plain }) },
  { title: "Query time", note: "wait included", hint: `Query time runs ${INCLUDED}.`, series: timing("query") },
  { title: "Wait for a server", series: timing("wait") },
  { title: "Clients", gauge: true, series: always(
    { name: "active", read: READ.ca, show: plain, fill: true }, { name: "waiting", read: READ.cw, show: plain }) },
  { title: "Servers", gauge: true, series: always(
    { name: "active", read: READ.sa, show: plain, fill: true }, { name: "idle", read: READ.si, show: plain },
    { name: "pool size", read: READ.size, show: plain }) },
  { title: "Bytes per second", series: always(
    { name: "from clients", read: READ.recv, show: bytes, fill: true }, { name: "to clients", read: READ.sent, show: bytes }) },
];
const COLOURS = ["--one", "--two", "--three"], DASHES = [[], [6, 3], [2, 3]];
const MOMENTS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600];
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5];
const HOLE = 2.5;              // seconds without a row that are not drawn over
const HELD = 10;               // seconds that a gauge holds however often it is read

// uPlot's columns: times, then a column for each series.
function columnsOf(rows, series, gauge) {
  const data = [[], ...series.map(() => [])];
  const push = (t, row) => { data[0].push(t); series.forEach((one, place) => data[place + 1].push(row ? one.read(row) ?? null : null)); };
  let before = null;
  for (const row of rows) {
    const began = row.t - row.s;
    if (!before && !gauge) push(began, row);
    if (before && gauge && row.t - before.t > Math.max(HELD, 2.5 * before.s)) push(before.t + Math.min(before.s, HOLE), null);
    if (before && !gauge && began - before.t > HOLE) { push(before.t + .001, null); push(began, null); }
    push(row.t, row);
    before = row;
  }
  return data;
}

// Places of what stands alone: a second with queries between two without is hardly a line.
function alone(drawn, place) {
  const values = drawn.data[place], [first, last] = drawn.series[0].idxs, found = [];
  for (let at = first; at <= last; at++) if (values[at] != null && values[at - 1] == null && values[at + 1] == null) found.push(at);
  return found;
}

class Chart {
  constructor(about) {
    this.about = about;
    this.box = make("section", { class: "chart" });
    const head = make("div", { class: "head" }), title = make("h2", {}, about.title);
    if (about.note) title.append(" ", make("small", { title: about.hint }, about.note));
    head.append(title, this.legend = make("div", { class: "legend" }));
    this.plot = make("div", { class: "plot", tabindex: "0", role: "img", "aria-label": about.title });
    this.tip = make("div", { class: "tip", hidden: "" });
    this.empty = make("div", { class: "empty", hidden: "" }, "nothing yet");
    this.box.append(head, this.plot, this.empty, this.tip);
    this.rows = []; this.series = []; this.drawn = null;
    this.plot.addEventListener("pointerenter", () => { this.pointed = true; });
    this.plot.addEventListener("pointerleave", () => this.leave());
    this.plot.addEventListener("blur", () => this.leave());
    this.plot.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resize()).observe(this.plot);
  }
  set(rows, from, to) {
    this.rows = rows; this.from = from; this.to = to;
    const series = this.about.series(rows), known = this.series.map((one) => one.name).join();
    if (!this.drawn || series.map((one) => one.name).join() !== known) { this.series = series; this.build(); }
    if (!this.drawn) return;
    const data = columnsOf(rows, this.series, this.about.gauge);
    this.empty.hidden = data.slice(1).some((column) => column.some((value) => value != null));
    const at = this.keyed == null ? null : this.keyed;
    this.drawn.setData(data, false);
    this.drawn.setScale("x", { min: from, max: to });
    this.names();
    if (at != null) this.mark(at);
  }
  build() {
    this.drawn?.destroy();
    this.drawn = null;
    const width = this.plot.clientWidth, height = this.plot.clientHeight;
    if (!width) return;
    const style = getComputedStyle(document.documentElement), colour = (name) => style.getPropertyValue(name).trim();
    const font = "11.5px system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";
    const steps = uPlot.paths.stepped({ align: this.about.gauge ? 1 : -1, alignGaps: this.about.gauge ? 1 : -1 });
    const show = this.series[0].show, axis = (value) => value == null ? "" : show(value).replace(/\.0+ /, " ");
    const lines = { stroke: colour("--quiet"), font, grid: { stroke: colour("--grid"), width: 1 }, ticks: { show: false } };
    this.drawn = new uPlot({
      width, height, padding: [8, 26, 0, 0], legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, sync: { key: "charts" }, points: { size: 6 } },
      scales: {
        x: { time: true, range: () => [this.from, this.to] },
        y: { range: (_, low, high) => [0, Math.max(high == null ? 0 : high * 1.06, this.about.gauge ? 3 : 0) || 3] },
      },
      axes: [
        { ...lines, size: 22, gap: 4, space: 62, incrs: MOMENTS, values: (_, splits) => splits.map((t) => clock(t, this.to - this.from < 600)) },
        { ...lines, gap: 5, space: 34, size: 56, incrs: this.about.gauge ? WHOLE : undefined,
          values: (_, splits) => splits.map(axis) },
      ],
      series: [{}, ...this.series.map((one, place) => ({
        stroke: colour(COLOURS[place]), width: 1.6, dash: DASHES[place], paths: steps, points: { show: true, size: 4, width: 0, fill: colour(COLOURS[place]), filter: alone },
        fill: one.fill ? colour("--fill") : undefined,
      }))],
      hooks: { setCursor: [(drawn) => this.moved(drawn.cursor.idx)] },
    }, [[], ...this.series.map(() => [])], this.plot);
  }
  resize() {
    if (this.drawn) this.drawn.setSize({ width: this.plot.clientWidth, height: this.plot.clientHeight });
    else this.set(this.rows, this.from, this.to);
  }
  repaint() { this.build(); this.set(this.rows, this.from, this.to); }
  names() {
    const last = this.rows[this.rows.length - 1];
    const shown = this.series.map((one) => [one.name, last ? one.show(one.read(last)) : none]);
    if (this.legend.children.length !== shown.length || this.named !== this.series) {
      this.named = this.series;
      this.legend.replaceChildren(...shown.map(([name], place) => {
        const item = make("span"), sample = draw("svg", { viewBox: "0 0 18 8", "aria-hidden": "true" });
        sample.append(draw("path", { class: `c${place}`, d: "M0 4h18", "stroke-width": "2.4" }));
        item.append(sample, name + " ", make("b"));
        return item;
      }));
    }
    shown.forEach(([, text], place) => say(this.legend.children[place].lastChild, text));
    const words = `${this.about.title}: ${shown.map(([name, text]) => `${name} ${text}`).join(", ")}`;
    if (this.plot.getAttribute("aria-label") !== words) this.plot.setAttribute("aria-label", words);
  }
  // Of the rows that are in sight, the place of the one at a time, or next to it.
  visible() { return this.rows.filter((row) => row.t >= this.from && row.t <= this.to); }
  key(event) {
    const move = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (event.key === "Escape") { this.leave(); return; }
    if (move === undefined || !this.drawn) return;
    event.preventDefault();
    const rows = this.visible();
    if (!rows.length) return;
    const place = this.keyed == null ? rows.length - (move === -1 ? 0 : 1) : rows.findIndex((row) => row.t >= this.keyed);
    this.mark(rows[Math.min(rows.length - 1, Math.max(0, (place < 0 ? rows.length - 1 : place) + move))].t);
    say($("spoken"), this.tip.innerText.replaceAll("\n", " "));
  }
  mark(t) {
    if (t < this.from) { this.leave(); return; }
    this.keyed = t;
    this.drawn.setCursor({ left: this.drawn.valToPos(t, "x"), top: 20 });
  }
  moved(place) {
    if (!(this.pointed || this.keyed != null) || place == null) { this.tip.hidden = true; return; }
    const t = this.keyed ?? this.drawn.data[0][place];
    const row = this.rows.find((one) => one.t === t);
    this.tip.replaceChildren(make("div", {}, clock(t)), ...this.series.map((one) => {
      const line = make("div");
      line.append(make("span", {}, one.name), make("b", {}, row ? one.show(one.read(row)) : none));
      return line;
    }));
    this.tip.hidden = false;
    const x = this.plot.offsetLeft + this.drawn.over.offsetLeft + this.drawn.valToPos(t, "x");
    const room = this.box.clientWidth - this.tip.offsetWidth - 8;
    this.tip.style.left = Math.max(4, Math.min(room, x + 12 > room ? x - this.tip.offsetWidth - 12 : x + 12)) + "px";
    this.tip.style.top = "52px";
  }
  leave() {
    this.keyed = null; this.pointed = false; this.tip.hidden = true;
    this.drawn?.setCursor({ left: -10, top: -10 });
  }
}

// Transactions per second of the last minute, as steps; a tick without figures leaves its place empty.
function sparkline(values) {
  const top = Math.max(1, ...values.filter((value) => value != null)), wide = 90 / 60;
  let path = "", open = false;
  values.forEach((value, place) => {
    if (value == null) { open = false; return; }
    const x = (90 - (values.length - place) * wide).toFixed(1), y = (20 - 18 * value / top).toFixed(1);
    path += open ? `V${y}h${wide}` : `M${x} ${y}h${wide}`;
    open = true;
  });
  return path;
}
