"use strict";
// The tables under the charts: what each shows, and where its rows come from.

const full = (p) => p.size && p.sa >= p.size ? "bad" : "";
const badge = (cell, text) => {
  let mark = cell.querySelector(".badge");
  if (text && !mark) cell.append(mark = make("span", { class: "badge" }));
  if (mark) { say(mark, text); mark.hidden = !text; }
};
const figure = (title, count, width, more = {}) => ({ title, order: (p) => p[count], text: (p) => plain(p[count]), width, ...more });
const duration = (title, spread, place, width, hint, name) => {
  const read = quantile(spread, place);
  return { title, order: read, text: (p) => time(read(p)), width, hint, name };
};
const words = (title, read, width, more = {}) => ({ title, order: read, text: (row) => read(row) || none, width, words: true, ...more });

const POOLS = {
  columns: [
    { title: "Database", order: (p) => p.db, words: true, name: "first", fill: (cell, p) => {
      link(cell, p.db, () => { choose(key(p)); scrollTo({ top: 0 }); }, `${p.db}: show only this pool in the charts`);
      badge(cell, halts.get(p.db) || "");
    } },
    words("User", (p) => p.user, 116),
    words("Mode", (p) => p.mode, 92),
    figure("Clients", "ca", 58),
    figure("Waiting", "cw", 60, { mood: (p) => p.cw ? "warn" : "" }),
    { title: "Servers", order: (p) => p.sa / (p.size || 1), width: 112, mood: full, hint: "in use, of the pool's size", fill: (cell, p) => {
      if (!cell.firstChild) { cell.append(make("span"), make("span", { class: "use", "aria-hidden": "true" })); cell.lastChild.append(make("i")); }
      say(cell.firstChild, `${plain(p.sa)} / ${plain(p.size)}`);
      cell.lastChild.firstChild.style.width = p.size ? Math.min(100, 100 * p.sa / p.size) + "%" : "0";
      cell.lastChild.className = full(p) ? "use full" : "use";
    } },
    figure("Idle", "si", 46, { name: "spare" }),
    figure("tps", "tps", 58, { hint: "transactions per second" }),
    duration("Query p50", "query", 1, 72, `half of the queries took no longer, ${INCLUDED}`, "spare"),
    duration("Query p99", "query", 3, 72, `99 of 100 queries took no longer, ${INCLUDED}`),
    duration("Query mean", "query", 0, 72, INCLUDED),
    duration("Wait p99", "wait", 3, 72, "99 of 100 waits for a server took no longer"),
    { title: "Longest wait", order: (p) => p.maxwait, width: 72, mood: (p) => p.maxwait >= 1e6 ? "bad" : "", hint: "of a client that waits now",
      fill: (cell, p) => p.maxwait ? link(cell, time(p.maxwait), () => open("waiting", `${p.db} ${p.user}`), "who waits") : say(cell, none) },
    { title: "Trend", width: 102, name: "trend", hint: "transactions per second in the last minute", fill: (cell, p, kept) => {
      if (!kept.spark) { const box = draw("svg", { class: "spark", viewBox: "0 0 90 22", "aria-hidden": "true" }); box.append(kept.spark = draw("path")); cell.append(box); }
      kept.spark.setAttribute("d", sparkline(trends.get(key(p)) || []));
    } },
  ],
  key: (p) => key(p), found: (p) => `${p.db} ${p.user} ${p.mode} ${halts.get(p.db) || ""}`, halted: (p) => halts.has(p.db),
  one: "pool", none: "no pool yet: it appears with its first client", note: `Query times run ${INCLUDED}.`,
};

const where = (row) => row.addr === "unix" ? `unix ${row.remote_pid || ""}` : row.addr.includes(":") ? `[${row.addr}]:${row.port}` : `${row.addr}:${row.port}`;
const age = (title, name, width, hint) => ({
  title, hint, width, order: (row) => row[name] ? -row[name] : -Infinity, text: (row) => row[name] ? span(Math.max(0, row.asked - row[name])) : none,
});
const waits = { title: "Waiting", width: 92, order: (row) => row.wait_us, mood: (row) => row.wait_us >= 1e6 ? "bad" : row.wait_us ? "warn" : "",
  text: (row) => row.wait_us ? time(row.wait_us) : none };
const peer = (title) => ({ title, order: where, words: true, name: "first", text: where });
const linked = (title, tab) => ({ title, width: 150, words: true, order: (row) => row.link, fill: (cell, row) => {
  if (row.link) link(cell, row.link, () => open(tab, row.link), `the ${title.toLowerCase()} it is linked to`);
  else say(cell, none);
} });
const socket = (tab, one, nothing, columns, more = {}) => ({
  columns, key: (row) => row.ptr, one, none: nothing, path: `page/${tab}`, ...more,
  found: (row) => [row.ptr, row.database, row.user, row.state, where(row), row.application_name, row.link, row.tls, row.remote_pid].join(" "),
});
const CLIENT = [
  peer("Client"), words("Database", (row) => row.database), words("User", (row) => row.user, 130),
  words("Application", (row) => row.application_name, 150), words("State", (row) => row.state, 84),
];
const since = age("Last request", "request_time", 104, "time since it asked for something");
const waiting = (row) => row.state === "waiting" || row.state === "waiting_cancel_req";

const TABS = {
  pools: { title: "Pools", ...POOLS },
  clients: { title: "Clients", ...socket("clients", "client", "no client is connected",
    [...CLIENT, age("Connected", "connect_time", 104), since, waits, linked("Server", "servers"), figure("Prepared", "prepared_statements", 78)]) },
  servers: { title: "Servers", ...socket("servers", "server connection", "no server connection is open",
    [peer("Server"), words("Database", (row) => row.database), words("User", (row) => row.user, 130), words("State", (row) => row.state, 84),
      figure("Backend", "remote_pid", 84, { text: (row) => row.remote_pid ? String(row.remote_pid) : none, hint: "its process's number in PostgreSQL" }),
      age("Connected", "connect_time", 104), since, linked("Client", "clients"), figure("Prepared", "prepared_statements", 78)]) },
  waiting: { title: "Waiting", ...socket("clients", "waiting client", "nobody waits",
    [...CLIENT, waits, age("Connected", "connect_time", 104)], { by: 5, only: waiting }) },
  sessions: { title: "Session state", path: "page/sessions", one: "thing held", many: "things held", none: "no client has left anything in its session",
    columns: [peer("Client"), words("Database", (row) => row.database), words("User", (row) => row.user, 130), words("Application", (row) => row.application_name, 130),
      words("Kind", (row) => row.kind, 110), words("Fate", (row) => row.fate, 110, { mood: (row) => row.fate === "leaks" ? "warn" : "" }),
      age("Since", "since", 90), figure("Pinned", "pinned_us", 90, { text: (row) => row.pinned_us ? time(row.pinned_us) : none, hint: "for so long its server stays with it" }),
      words("Statement", (row) => row.statement, undefined, { name: "text" })],
    key: (row) => `${row.id} ${row.kind}`, found: (row) => [row.database, row.user, row.application_name, where(row), row.kind, row.fate, row.statement].join(" ") },
  events: { title: "Events", path: "page/events", one: "kind of event", many: "kinds of events", none: "nothing has happened that is counted here",
    columns: [words("What", (row) => row.kind, 110), words("Database", (row) => row.database, 220), words("Reason", (row) => row.reason, undefined, { name: "first" }),
      figure("Last 5 minutes", "recent", 110, { mood: (row) => row.recent && TROUBLES.has(row.kind) ? "bad" : "" }), figure("Since the start", "count", 110),
      { title: "Last seen", width: 170, order: (row) => row.last, text: (row) => row.last ? moment(row.last) : none }],
    key: (row) => JSON.stringify([row.kind, row.database, row.reason]), found: (row) => `${row.kind} ${row.database} ${row.reason}` },
  log: { title: "Log", one: "line", none: "no lines yet", by: 0, log: true,
    columns: [{ title: "Time", width: 180, name: "time", words: true, order: (row) => row.number, text: (row) => moment(row.time) },
      words("Level", (row) => row.level, 90, { mood: (row) => ({ FATAL: "bad", ERROR: "bad", WARNING: "warn" })[row.level] || "" }),
      words("Text", (row) => row.text, undefined, { name: "text" })],
    key: (row) => row.number, found: (row) => `${row.level} ${row.text}` },
  configuration: { title: "Configuration", path: "page/configuration", one: "setting", none: "no settings are told", slowly: true,
    columns: [words("Section", (row) => row.section, 110), words("Setting", (row) => row.key, undefined, { name: "first" }),
      words("Value", (row) => row.value, undefined, { name: "text", mood: (row) => row.section !== "databases" && row.value !== row.default ? "own" : "" }),
      words("Default", (row) => row.default, 200), words("Changes by", (row) => ({ yes: "RELOAD or SET", no: "a restart" })[row.changeable] || "", 130)],
    key: (row) => row.section + "/" + row.key, found: (row) => [row.section, row.key, row.value, row.default].join(" ") },
};
const TROUBLES = new Set(["error", "timeout", "round"]);
const KEPT_LINES = 2000;

let tab = "pools", asking = null, kind = "own", timer = 0;
const tables = {}, logs = { own: [], metrics: [] };

function tableOf(name) {
  if (!tables[name]) {
    tables[name] = new Table(TABS[name]);
    tables[name].shown = (table) => { if (name === tab) count(table); };
  }
  return tables[name];
}
function count(table) {
  const { one, many, none: nothing } = TABS[tab], rows = table.rows.length, shown = Math.min(table.found, table.limit);
  const all = counted(rows, one, many);
  say($("count"), !rows ? (table.asked || tab === "pools" ? nothing : "") : table.found < rows ? `${plain(table.found)} of ${all}` : all);
  say($("note"), tab === "pools" && hidden ? `the busiest; ${plain(hidden)} more are in the sums alone` : TABS[tab].note || "");
  $("more").hidden = shown >= table.found;
  say($("more"), `Show more: these are ${plain(shown)} of ${plain(table.found)}`);
}
function open(name, words) {
  asking?.abort(); clearTimeout(timer);
  tab = name;
  const table = tableOf(name);
  if (words !== undefined) table.text = words;
  for (const button of $("tabs").children) {
    const chosen = button.dataset.tab === name;
    button.setAttribute("aria-selected", String(chosen));
    button.tabIndex = chosen ? 0 : -1;
    if (chosen) $("tabs").scrollLeft = button.offsetLeft - ($("tabs").clientWidth - button.offsetWidth) / 2;
  }
  $("sheet").setAttribute("aria-labelledby", `tab-${name}`);
  $("search").value = table.text || "";
  $("kinds").hidden = name !== "log" || !about.log;
  $("scroll").replaceChildren(table.element);
  table.element.className = name;
  table.search(table.text || "");
  remember();
  if (words !== undefined) $("panel").scrollIntoView({ block: "nearest" });
  if (name !== "pools") load();
}
// One request at a time; the next comes later the longer this one took.
async function load() {
  const name = tab, about = TABS[name], table = tableOf(name), began = performance.now();
  clearTimeout(timer);
  if (held && table.asked || document.hidden) { timer = setTimeout(load, 1000); return; }
  const mine = asking = new AbortController();
  try {
    const rows = about.log ? await lines(mine.signal) : await rowsOf(about.path, mine.signal);
    if (mine.signal.aborted) return;
    table.asked = true;
    table.set(about.only ? rows.filter(about.only) : rows);
  } catch (error) {
    if (mine.signal.aborted) return;
    say($("note"), `cannot be had now: ${error.message}`);
  }
  timer = setTimeout(load, Math.max(about.slowly ? 10000 : about.log ? 1000 : 2000, 10 * (performance.now() - began)));
}
async function rowsOf(path, signal) {
  const answer = await fetch(path, { signal });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  const { columns, rows, t } = await answer.json();
  return rows.map((row) => {
    const made = { asked: t };
    columns.forEach((column, place) => { made[column] = row[place]; });
    return made;
  });
}
async function lines(signal) {
  const which = about.log ? kind : "metrics", known = logs[which];
  if (which === "own") {
    known.push(...await rowsOf(`page/log?after=${known.length ? known[known.length - 1].number : 0}`, signal));
  } else {
    const answer = await fetch("logs?json&n=500", { signal });
    if (!answer.ok) throw new Error((await answer.text()).trim());
    const told = (await answer.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
    known.splice(0, known.length, ...told.map((line, number) => ({ number, time: line.time, level: line.process.replace("heroku-", ""), text: line.message })));
  }
  while (known.length > KEPT_LINES) known.shift();
  return [...known];
}

$("tabs").append(...Object.entries(TABS).map(([name, { title }]) => {
  const button = make("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "sheet", "data-tab": name }, title);
  button.append(make("span", { class: "number" }));
  button.addEventListener("click", () => open(name));
  return button;
}));
$("tabs").addEventListener("keydown", (event) => {
  const names = Object.keys(TABS), place = names.indexOf(tab);
  const next = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: names.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  open(names[(next + names.length) % names.length]);
  $(`tab-${tab}`).focus();
});
$("search").addEventListener("input", () => { const table = tableOf(tab); table.text = $("search").value; table.search(table.text); remember(); });
$("more").addEventListener("click", () => tableOf(tab).more());
for (const button of $("kinds").children) {
  button.addEventListener("click", () => {
    kind = button.dataset.kind;
    for (const other of $("kinds").children) press(other, other === button);
    asking?.abort();
    load();
  });
}
