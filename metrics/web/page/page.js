"use strict";
// What is told, and what is shown of it: the last hour and what comes, of all pools or of one.

const KEPT = 3700;             // seconds of rows
const TRENDS = 60;
const key = (pool) => JSON.stringify([pool.db, pool.user]);
const about = { where: "", log: false };
const halts = new Map();       // database -> paused or disabled
const trends = new Map();      // pool -> transactions per second of the last ticks
let all = [], mine = [];       // rows of all pools, and of the one that is shown
let last = null, shown = null, scope = "", range = 300, held = false, skew = 0, stale = "", hidden = 0;

const charts = CHARTS.map((chart) => new Chart(chart));
$("charts").append(...charts.map((chart) => chart.box));

const TILES = [
  ["Transactions / s", (p) => plain(p.tps)],
  ["Queries / s", (p) => plain(p.qps)],
  ["Clients active", (p) => plain(p.ca), null, "clients"],
  ["Clients waiting", (p) => plain(p.cw), (p) => p.cw ? "warn" : "", "waiting"],
  ["Servers in use", (p) => `${plain(p.sa)} / ${plain(p.size)}`, full, "servers"],
  ["Longest wait", (p) => time(p.maxwait), (p) => p.maxwait >= 1e6 ? "bad" : p.maxwait ? "warn" : "", "waiting"],
];
const tiles = TILES.map(([title, , , leads]) => {
  const box = make(leads ? "button" : "div", { class: "tile", ...(leads ? { type: "button", title: `show the ${TABS[leads].title.toLowerCase()}` } : {}) });
  box.append(make("span", {}, title), make("b", {}, none));
  if (leads) box.addEventListener("click", () => open(leads, scope ? JSON.parse(scope).join(" ") : ""));
  $("tiles").append(box);
  return box;
});

// ---- one row: seconds before a time, and what they were

function rowOf(tick, entry) { return { ...entry, t: tick.t, s: tick.s }; }
function rowsFrom({ columns, rows }) {
  return rows.map((values) => {
    const row = {};
    columns.forEach((name, place) => { row[{ time: "t", seconds: "s" }[name] || name] = values[place]; });
    return row;
  });
}
function trim(rows) { while (rows.length && rows[0].t < rows[rows.length - 1].t - KEPT) rows.shift(); }

async function choose(id) {
  scope = id;
  mine = [];
  options([]);
  $("scope").value = id;
  remember();
  show();
  if (!id) return;
  const [database, user] = JSON.parse(id);
  try {
    const answer = await fetch(`page/past?database=${encodeURIComponent(database)}&user=${encodeURIComponent(user)}`);
    const rows = rowsFrom(await answer.json());
    if (scope !== id) return;
    const newest = rows.length ? rows[rows.length - 1].t : 0;
    mine = [...rows, ...mine.filter((row) => row.t > newest)];
    show();
  } catch (error) {
    say($("note"), `the past cannot be had now: ${error.message}`);
  }
}
function options(pools) {
  const known = new Set([...$("scope").options].map((option) => option.value));
  const add = (id, database, user) => { if (!known.has(id)) $("scope").append(make("option", { value: id }, `${database} \u00b7 ${user}`)); };
  for (const pool of [...pools].sort((a, b) => (a.db + a.user).localeCompare(b.db + b.user))) add(key(pool), pool.db, pool.user);
  if (scope) add(scope, ...JSON.parse(scope));
}

// ---- showing

function state(words, mood) { say($("state"), words); $("state").dataset.mood = mood; }
function standing(tick) {
  const { paused, disabled } = tick.databases;
  if (tick.about.state !== "active") return [tick.about.state, "warn"];
  const parts = [[paused, "paused"], [disabled, "disabled"]].filter(([names]) => names.length);
  if (!parts.length) return ["active", "good"];
  return [`active, ${parts.map(([names, word]) => `${counted(names.length, "database")} ${word}`).join(", ")}`, "warn"];
}
function head(tick) {
  const name = about.where || tick.about.name;
  say($("where"), name);
  say($("version"), `${tick.about.name} ${tick.about.version}`);
  const [words, mood] = stale ? [stale, "bad"] : held ? ["held", "warn"] : standing(tick);
  state(words, mood);
  const old = Boolean(stale || held);
  document.body.classList.toggle("stale", Boolean(stale));
  $("asof").hidden = !old;
  if (old) say($("asof"), `as of ${clock(tick.t)}`);
  const brief = stale ? "no figures" : tick.about.state !== "active" ? tick.about.state
    : tick.all.cw ? `${plain(tick.all.cw)} waiting` : `${plain(tick.all.tps)} tps`;
  const title = `${name} \u00b7 ${brief}`;
  if (document.title !== title) document.title = title;
  const facts = [counted(tick.databases.count, "database"), `up to ${counted(tick.about.max_clients, "client")}`];
  if (tick.about.started) facts.unshift(`up ${span(tick.t - tick.about.started)}`);
  if (tick.about.resident) facts.push(`${bytes(tick.about.resident)} of memory`);
  say($("facts"), facts.join(" \u00b7 "));
}
function numbers(tick) {
  const of = { clients: tick.all.ca + tick.all.cw, waiting: tick.all.cw, events: tick.troubles, pools: tick.pools.length + tick.hidden };
  for (const button of $("tabs").children) {
    const number = of[button.dataset.tab];
    say(button.lastChild, number ? plain(number) : "");
    button.lastChild.dataset.mood = button.dataset.tab === "events" && number ? "bad" : button.dataset.tab === "waiting" && number ? "warn" : "";
  }
}
function show() {
  if (!last) return;
  if (!held) shown = last;
  const to = held ? shown.t : Math.max(last.t, Date.now() / 1000 - skew - 1.5), rows = scope ? mine : all;
  const sight = rows.filter((row) => row.t > to - range - 120 && row.t - row.s < to);
  for (const chart of charts) chart.set(sight, to - range, to);
  const now = scope ? shown.byKey.get(scope) : shown.all;
  TILES.forEach(([, text, mood], place) => {
    say(tiles[place].lastChild, now ? text(now) : none);
    tiles[place].dataset.mood = mood && now ? mood(now) : "";
  });
  hidden = shown.hidden;
  halts.clear();
  for (const word of ["disabled", "paused"]) for (const name of shown.databases[word]) halts.set(name, word);
  if (shown.about.state !== "active") for (const pool of shown.pools) halts.set(pool.db, shown.about.state);
  if (tab === "pools") tableOf("pools").set(shown.pools); else tableOf("pools").rows = shown.pools;
  numbers(shown);
  head(shown);
}

// ---- being told

function take(tick) {
  if (last && tick.t <= last.t) return;
  tick.byKey = new Map(tick.pools.map((pool) => [key(pool), pool]));
  if (!last || tick.t - last.t > 30) skew = Date.now() / 1000 - tick.t;
  stale = "";
  last = tick;
  if (tick.s > 0 && (!all.length || tick.t > all[all.length - 1].t)) {
    all.push(rowOf(tick, tick.all));
    trim(all);
    const entry = scope && tick.byKey.get(scope);
    if (entry) { mine.push(rowOf(tick, entry)); trim(mine); }
    for (const id of new Set([...trends.keys(), ...tick.byKey.keys()])) {
      const values = trends.get(id) || [];
      values.push(tick.byKey.get(id)?.tps ?? null);
      if (values.length > TRENDS) values.shift();
      if (values.some((value) => value != null)) trends.set(id, values); else trends.delete(id);
    }
  }
  options(tick.pools);
  if (!held && !document.hidden) show();
}
function lost(why) {
  stale = why;
  if (shown) head(shown); else state(why, "bad");
}
const source = new EventSource("events");
const told = (name, hear) => source.addEventListener(name, (event) => hear(JSON.parse(event.data)));
told("hello", (value) => {
  Object.assign(about, value);
  kind = about.log ? kind : "metrics";
  $("kinds").hidden = tab !== "log" || !about.log;
});
told("past", (value) => {
  if (value.first) { all = []; last = null; }
  all.push(...rowsFrom(value));
});
told("trends", ({ rows }) => {
  trends.clear();
  for (const [db, user, values] of rows) trends.set(key({ db, user }), values);
  if (scope) choose(scope);
});
told("tick", take);
told("down", ({ reason }) => lost(`no figures: ${reason}`));
source.addEventListener("error", () => lost("disconnected, trying again"));
document.addEventListener("visibilitychange", () => { if (!document.hidden) show(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach((chart) => chart.repaint()));

// ---- choosing

$("scope").addEventListener("change", (event) => choose(event.target.value));
function spanOf(seconds) {
  range = seconds;
  for (const other of document.querySelectorAll("[data-range]")) press(other, Number(other.dataset.range) === range);
  remember();
  show();
}
for (const button of document.querySelectorAll("[data-range]")) button.addEventListener("click", () => spanOf(Number(button.dataset.range)));
$("hold").addEventListener("click", () => {
  held = !held;
  press($("hold"), held);
  say($("hold"), held ? "Go on" : "Hold");
  show();
});

// What one looks at is in the address, so that it can be sent to somebody.
function remember() {
  const parts = new URLSearchParams();
  if (tab !== "pools") parts.set("tab", tab);
  if (tableOf(tab).text) parts.set("search", tableOf(tab).text);
  if (scope) parts.set("pool", JSON.parse(scope).join("/"));
  if (range !== 300) parts.set("range", String(range));
  const text = parts.toString();
  history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
}
function recall() {
  const parts = new URLSearchParams(location.hash.slice(1)), pool = parts.get("pool");
  const name = TABS[parts.get("tab")] ? parts.get("tab") : "pools";
  if (pool && pool.includes("/")) scope = JSON.stringify([pool.slice(0, pool.lastIndexOf("/")), pool.slice(pool.lastIndexOf("/") + 1)]);
  if (Number(parts.get("range")) === 3600) range = 3600;
  tableOf(name).text = parts.get("search") || "";
  open(name);
  spanOf(range);
  options([]);
  $("scope").value = scope;
}
recall();
