// The daemon's state, written into the page. Names of fields: docs/admin-api.md.

import { $, bytes, clock, count, el, plural, rate, seconds, setText, sync } from "./dom.js";
import { Chart } from "./chart.js";

const SAMPLES = 15;
let known = null;
let samples = [];

/** A polite word for who can't see the colours change. */
export const say = (text) => setText($("said"), text);

function cards(parent, items) {
  const make = () => {
    const card = el("article", "card");
    const header = el("header");
    header.append(el("h3"), el("span", "badge"));
    card.append(header, el("dl"));
    return card;
  };
  sync(parent, items, make, (card, { title, badge, rows }) => {
    setText(card.querySelector("h3"), title);
    const [text, kind] = badge ?? ["", ""];
    const mark = card.querySelector(".badge");
    setText(mark, text);
    mark.className = `badge ${kind}`;
    mark.hidden = !text;
    pairs(card.querySelector("dl"), rows);
  });
}

/** Name, value, and a smaller line. */
function pairs(list, rows) {
  const make = () => {
    const row = el("div");
    row.append(el("dt"), el("dd"));
    return row;
  };
  const shown = rows.filter((row) => row).map(([name, value, more]) => ({ key: name, name, value, more }));
  if (list.classList.contains("numbers")) {
    sync(list, shown, make, (row, { name, value, more }) => {
      setText(row.children[0], name);
      setText(row.children[1], value);
      let small = row.querySelector(".more");
      if (!small && more !== undefined) {
        small = el("dd", "more");
        row.append(small);
      }
      if (small) setText(small, more ?? "");
    });
    return;
  }
  const flat = shown.flatMap(({ name, value }) => [
    { key: `t:${name}`, tag: "dt", text: name },
    { key: `d:${name}`, tag: "dd", text: value },
  ]);
  sync(list, flat, ({ tag }) => el(tag), (node, { text }) => setText(node, text));
}

/** What somebody should know, the worst first: key, kind, text. */
function attention(status) {
  const found = [];
  const add = (kind, key, text) => found.push({ kind, key, text });
  if (status.state === "standby") {
    const { holder, error, waiting_seconds } = status.lease ?? {};
    if (error) add("bad", "lease", `The source can't be asked for the lease: ${error}`);
    else add("note", "standby", `Stands by for ${seconds(waiting_seconds)}: ${holder ? `connection ${holder} of the source has the lease` : "waits for the lease"}`);
    return found;
  }
  const { pause, queue, checkpoint, config, source } = status;
  if (pause?.paused) add("warn", "paused", `Paused for ${seconds(pause.paused_seconds)}: nothing is read; rowbust resume goes on`);
  else if (status.not_ready) add("bad", "not-ready", `Not ready: ${status.not_ready}`);
  for (const target of status.targets ?? []) {
    if (target.breaker === "open") {
      add("bad", `breaker:${target.name}`, `Redis ${target.name} fails (${target.error}) for ${seconds(target.open_seconds)}: removals go to the retry queue`);
    }
    for (const server of target.servers ?? []) {
      if (server.error && target.servers.length > 1) add("bad", `server:${server.host}:${server.port}`, `Redis ${target.name}: ${server.host}:${server.port} fails (${server.error})`);
    }
  }
  for (const mark of status.marks?.targets ?? []) {
    if (mark.error) add("warn", `mark:${mark.name}`, `The mark in Redis ${mark.name} can't be kept (${mark.error}): a loss of its memory would go unseen`);
  }
  for (const server of status.visibility ?? []) {
    if (server.held_seconds > 5) add("warn", `held:${server.server}`, `Second removals wait for ${server.server} for ${seconds(server.held_seconds)}`);
  }
  if (queue?.dead_letters > 0) add("bad", "dead", `${plural(queue.dead_letters, "dead letter")}: rowbust retry ls --dead`);
  if (queue?.pending > 0) add("warn", "queue", `${plural(queue.pending, "removal")} in the retry queue, the oldest for ${seconds(queue.oldest_seconds)}`);
  if (checkpoint?.behind && checkpoint.age_seconds > 60) add("bad", "checkpoint", `The checkpoint stands still for ${seconds(checkpoint.age_seconds)}`);
  if (config?.last_reload && config.last_reload.outcome?.ok === false) {
    add("warn", "reload", `The config of ${clock(config.last_reload.at_ms)} was refused, the old one is in force: ${reasons(config.last_reload.outcome)}`);
  }
  if (config?.uncovered?.length) add("warn", "uncovered", `Never flushed, so older copies may be stale: ${config.uncovered.join(", ")}`);
  if (source?.xa_prepared > 0) add("warn", "xa", `${plural(source.xa_prepared, "prepared XA transaction")}: the checkpoint waits for the oldest`);
  for (const flush of status.flush ?? []) {
    if (flush.running) add("note", `flush:${flush.target}`, `Flushes ${flush.running.tables.join(", ")} at ${flush.target} (${flush.running.causes.join(", ")}): ${plural(flush.running.removed, "key")} removed`);
  }
  if (status.witness === "delay") add("note", "witness", "Visibility is assumed after a delay: the source offers no witness");
  const worth = ["bad", "warn", "note"];
  return found.sort((a, b) => worth.indexOf(a.kind) - worth.indexOf(b.kind));
}

function reasons(outcome) {
  const error = outcome.error ?? {};
  const all = (error.errors ?? []).map((one) => (typeof one === "string" ? one : (one.message ?? JSON.stringify(one))));
  return [error.message, ...all].filter(Boolean).join("; ") || "see the log";
}

function showAttention(status) {
  const found = attention(status);
  const calm = { kind: "good", key: "calm", text: "Nothing needs attention." };
  sync($("attention"), found.length ? found : [calm], () => {
    const item = el("li");
    item.append(el("span", "badge"), " ", el("span"));
    return item;
  }, (item, { kind, text }) => {
    item.className = kind;
    const [mark, words] = item.querySelectorAll("span");
    mark.className = `badge ${kind === "note" ? "" : kind}`;
    setText(mark, { bad: "failing", warn: "look", note: "note", good: "well" }[kind]);
    setText(words, text);
  });
  const now = new Map(found.map(({ key, text }) => [key, text]));
  if (known) {
    const came = found.filter(({ key }) => !known.has(key)).map(({ text }) => text);
    const gone = [...known].filter(([key]) => !now.has(key)).map(([, text]) => `No more: ${text}`);
    if (came.length || gone.length) say([...came, ...gone].join(". "));
  }
  known = now;
}

function overall(status) {
  if (status.state === "standby") return ["standby", "warn"];
  if (status.pause?.paused) return ["paused", "warn"];
  if (!status.ready) return ["not ready", "bad"];
  return ["active", "good"];
}

export function showStatus(status) {
  const [word, kind] = overall(status);
  $("state").className = `badge ${kind}`;
  setText($("state"), word);
  setText($("about"), `version ${status.version}, up ${seconds(status.uptime_seconds)}`);
  document.title = `${word === "active" ? "" : `${word}: `}rowbust`;
  showAttention(status);
  for (const section of document.querySelectorAll(".of-active")) section.hidden = status.state === "standby";
  cards($("parts"), parts(status));
  cards($("servers"), (status.visibility ?? []).map((server) => ({
    key: server.server,
    title: server.server,
    badge: server.sample_age_seconds > 5 || server.sample_age_seconds === null ? ["can't be asked", "bad"] : ["answers", "good"],
    rows: [
      ["witness", server.witness],
      ["asked last", `${seconds(server.sample_age_seconds)} ago`],
      server.held_seconds !== undefined && ["holds removals for", seconds(server.held_seconds)],
      ["failures", count(server.failures)],
      ["delay stood in", count(server.delays)],
    ],
  })));
  const marks = new Map((status.marks?.targets ?? []).map((mark) => [mark.name, mark]));
  targets = (status.targets ?? []).map((target) => ({ ...target, mark: marks.get(target.name) }));
  showTargets();
  showLog(status.log ?? []);
}

let targets = [];
let rates = new Map();

const showTargets = () => cards($("targets"), targets.map(target));

function target(now) {
  const open = now.breaker === "open";
  const last = rates.get(now.name);
  const quantiles = (of) => (of ? `${seconds(of.p50)} · ${seconds(of.p99)} · ${seconds(of.max)}` : "–");
  return {
    key: now.name,
    title: now.name,
    badge: open ? [`breaker open: ${now.error}`, "bad"] : ["breaker closed", "good"],
    rows: [
      open && ["open for", seconds(now.open_seconds)],
      ["opened", plural(now.times_opened, "time")],
      last && ["first removals", rate(last.per_second.first)],
      last && ["last removals", rate(last.per_second.last)],
      last && ["to the queue", rate(last.per_second.queued)],
      last && ["out of the queue", rate(last.per_second.retried)],
      last && ["commit to removal: p50 · p99 · max", quantiles(last.commit_to_removal_seconds)],
      last && ["receipt to removal: p50 · p99 · max", quantiles(last.receipt_to_removal_seconds)],
      ["first · last since the start", `${count(now.removed?.first)} · ${count(now.removed?.last)}`],
      ["queued · retried since the start", `${count(now.removed?.queued)} · ${count(now.removed?.retried)}`],
      now.mark && ["its mark is behind by", now.mark.error ? `fails: ${now.mark.error}` : seconds(now.mark.lag_seconds)],
      now.mark?.pool?.length > 0 && ["readers ask", now.mark.pool.map(String).join(", ")],
      ["servers", (now.servers ?? []).map((s) => `${s.host}:${s.port}${s.error ? ` (${s.error})` : ""}`).join(", ") || "–"],
    ],
  };
}

function parts(status) {
  const { source, checkpoint, queue, config, lease } = status;
  const made = [];
  if (lease) {
    made.push({ key: "lease", title: "Lease", rows: [
      ["name", lease.name], ["holder", lease.holder ? `connection ${lease.holder}` : "–"], ["waits for", seconds(lease.waiting_seconds)], ["error", lease.error ?? "–"],
    ] });
  }
  if (source) {
    made.push({ key: "source", title: "Source", badge: source.connected ? ["connected", "good"] : ["not connected", "bad"], rows: [
      ["server", `${source.flavor} ${source.version}`],
      ["identity", source.identity],
      ["transactions", count(source.transactions)],
      ["events", count(source.events)],
      ["reconnects · gaps", `${count(source.reconnects)} · ${count(source.gaps)}`],
    ] });
  }
  if (status.state !== "standby") {
    made.push({ key: "checkpoint", title: "Checkpoint", badge: !checkpoint ? ["none yet", "warn"] : checkpoint.behind ? ["more is on its way", ""] : ["all saved", "good"], rows: !checkpoint ? [] : [
      ["file", checkpoint.file || "–"],
      ["position", String(checkpoint.position)],
      ["GTIDs", checkpoint.gtids || "–"],
      ["saved", `${seconds(checkpoint.age_seconds)} ago`],
      ["saves · failures", `${count(checkpoint.saves)} · ${count(checkpoint.failures)}`],
      ["fence", String(checkpoint.fence)],
    ] });
  }
  if (status.marks) {
    made.push({ key: "marks", title: "Redis' memory", rows: [
      ["losses: repeated from the binlog", count(status.marks.rewinds)],
      ["losses: flushed", count(status.marks.flushes)],
      ["marks evicted", count(status.marks.evicted)],
    ] });
  }
  if (queue) {
    made.push({ key: "queue", title: "Retry queue", badge: queue.pending > 0 ? [`${count(queue.pending)} pending`, "warn"] : ["empty", "good"], rows: [
      ["pending", count(queue.pending)],
      ["oldest", seconds(queue.oldest_seconds)],
      ["dead letters", count(queue.dead_letters)],
      ["requeued · dropped", `${count(queue.requeued)} · ${count(queue.dropped)}`],
      ["unreadable", count(queue.poison)],
    ] });
  }
  if (config) {
    const last = config.last_reload;
    made.push({ key: "config", title: "Config", badge: last && last.outcome?.ok === false ? ["last reload refused", "warn"] : undefined, rows: [
      ["reloads · refused", `${count(config.reloads)} · ${count(config.reload_failures)}`],
      ["last reload", last ? clock(last.at_ms) : "–"],
      ["never flushed", config.uncovered?.join(", ") || "–"],
    ] });
  }
  for (const flush of status.flush ?? []) {
    const run = flush.running;
    if (!run && !flush.waiting && !flush.removed) continue;
    made.push({ key: `flush:${flush.target}`, title: `Flush at ${flush.target}`, badge: run ? ["running", "warn"] : flush.waiting ? ["waiting", "warn"] : ["idle", "good"], rows: [
      run && ["tables", run.tables.join(", ")],
      run && ["causes", run.causes.join(", ")],
      run && ["runs for", seconds(run.seconds)],
      run && ["scanned", `${count(run.scanned)} of ${count(run.to_scan)}`],
      run?.held_by && ["held by", String(run.held_by)],
      ["waiting", count(flush.waiting)],
      ["removed · scanned since the start", `${count(flush.removed)} · ${count(flush.scanned)}`],
    ] });
  }
  return made;
}

function showLog(lines) {
  const items = lines.slice(-20).reverse().map((line, at) => ({ ...line, key: String(at) }));
  $("hidden-values").hidden = !items.some((line) => line.values === null);
  const none = { key: "none", none: true };
  sync($("log"), items.length ? items : [none], (item) => {
    const made = el("li");
    if (!item.none) made.append(el("time"), " ", el("span", "badge"), " ", el("span"), " ", el("code"));
    return made;
  }, (made, line) => {
    if (line.none) {
      setText(made, "None.");
      return;
    }
    const [time, mark, message, values] = made.children;
    setText(time, clock(line.at_ms));
    setText(mark, line.level);
    mark.className = `badge ${line.level === "error" ? "bad" : "warn"}`;
    setText(message, line.message);
    setText(values, line.values ?? "");
  });
}

const charts = [
  new Chart($("charts"), "c-lag", "Lag", ["lag"], seconds),
  new Chart($("charts"), "c-rates", "Rows and keys", ["rows", "keys"], rate),
  new Chart($("charts"), "c-latency", "Commit to removal", ["p50", "p99"], seconds),
  new Chart($("charts"), "c-queue", "Retry queue", ["pending"], count),
];

/** The worst target's. */
function worst(targets, field) {
  const all = targets.map((target) => target[field]).filter(Boolean);
  if (!all.length) return null;
  const most = (name) => Math.max(...all.map((one) => one[name]));
  return { p50: most("p50"), p99: most("p99"), max: most("max") };
}

export function showRates(now) {
  rates = new Map(now.targets.map((target) => [target.name, target]));
  showTargets();
  const commit = worst(now.targets, "commit_to_removal_seconds");
  const receipt = worst(now.targets, "receipt_to_removal_seconds");
  const sum = (name) => now.targets.reduce((sum, target) => sum + target.per_second[name], 0);
  const { behind } = now;
  pairs($("numbers"), [
    ["lag", seconds(now.lag_seconds), now.caught_up ? "all is done" : "working"],
    ["behind the server", behind ? bytes(behind.bytes) : "–", behind ? `${plural(behind.files, "file")} further on` : "not known"],
    ["commit to removal, p99", seconds(commit?.p99), commit ? `p50 ${seconds(commit.p50)}, max ${seconds(commit.max)}` : "no removal"],
    ["receipt to removal, p99", seconds(receipt?.p99), receipt ? `p50 ${seconds(receipt.p50)}, max ${seconds(receipt.max)}` : "no removal"],
    ["rows", rate(now.per_second.rows), `${rate(now.per_second.transactions)} transactions`],
    ["keys", rate(now.per_second.keys), `${bytes(now.per_second.bytes)}/s read`],
    ["removed", rate(sum("first") + sum("retried")), `${rate(sum("queued"))} to the queue`],
    ["in flight", bytes(now.in_flight_bytes), plural(now.open_segments, "open segment")],
    ["queue", count(now.queue.pending), now.queue.pending ? `oldest ${seconds(now.queue.oldest_seconds)}` : "empty"],
  ]);
  const at = performance.now();
  const values = [
    [now.lag_seconds],
    [now.per_second.rows, now.per_second.keys],
    [commit?.p50 ?? null, commit?.p99 ?? null],
    [now.queue.pending],
  ];
  charts.forEach((chart, place) => chart.add(at, values[place]));
}

export function drawCharts() {
  const now = performance.now();
  for (const chart of charts) chart.draw(now);
}

export function cutCharts() {
  for (const chart of charts) chart.cut();
}

export function showRemoval(removal) {
  samples = [{ ...removal, at: Date.now() }, ...samples].slice(0, SAMPLES);
}

export function drawRemovals() {
  const items = samples.map((removal, at) => ({ ...removal, key: String(at), name: removal.key }));
  sync($("sample"), items, () => {
    const item = el("li");
    item.append(el("time"), " ", el("code"), " ", el("span"));
    return item;
  }, (item, removal) => {
    const [time, key, rest] = item.children;
    setText(time, clock(removal.at));
    setText(key, removal.field === null ? removal.name : `${removal.name} ${removal.field}`);
    setText(rest, `${removal.target}, ${removal.removal}, after ${seconds(removal.waited_seconds)}, ${removal.file}:${removal.position}`);
  });
}
