// Asks the daemon: `status` every two seconds, `events` as they come. What can't be renewed is marked as old, never shown as if it
// were new. Paths are relative, so that the page works behind a proxy's prefix.

import { $, clock, setText } from "./dom.js";
import { cutCharts, drawCharts, drawRemovals, say, showRates, showRemoval, showStatus } from "./show.js";

const EVERY = 2000;
/** Without an answer, or without an event, for so long it is lost. */
const LOST = 5000;
/** A page that nobody sees gives its place in `events` back. */
const UNSEEN = 60_000;
const KEY = "rowbust-token";
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let token = sessionStorage.getItem(KEY) ?? "";
/** When the newest status came: monotonic, and by the clock. */
let good = { at: performance.now(), ms: Date.now() };
let lost = false;
let refused = "";
let active = false;
let live = null;
/** The connection ends because it is to begin anew, with another token. */
let anew = false;
let heard = 0;
let drawn = 0;

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

async function ask() {
  try {
    const answer = await fetch("status", { headers: headers(), cache: "no-store", signal: AbortSignal.timeout(LOST) });
    const status = await answer.json();
    if (!answer.ok) throw new Error(status.error?.message ?? `status ${answer.status}`);
    good = { at: performance.now(), ms: Date.now() };
    refused = "";
    active = status.state === "active";
    showStatus(status);
    if (!active) stop("");
    mark(false);
  } catch (error) {
    refused = error instanceof TypeError || error.name === "TimeoutError" ? "" : error.message;
    mark(true);
  }
}

function mark(isLost) {
  document.body.classList.toggle("stale", isLost);
  if (isLost !== lost) {
    lost = isLost;
    if (isLost) {
      live?.abort();
      stop("");
      $("state").className = "badge bad";
      setText($("state"), "connection lost");
      document.title = "connection lost: rowbust";
    } else {
      say("Connected again.");
    }
  }
  const why = refused ? ` (${refused})` : "";
  setText($("lost"), isLost ? `Connection lost since ${clock(good.ms)}${why}. What stands below is as it was then; trying again.` : "");
}

async function* parse(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard = performance.now();
    rest += value;
    const blocks = rest.split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      let kind = "";
      let data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event:")) kind = line.slice(6).trim();
        if (line.startsWith("data:")) data += line.slice(5);
      }
      if (kind && data) yield { kind, data: JSON.parse(data) };
    }
  }
}

/** One connection to `events`, until it ends. */
async function listen() {
  live = new AbortController();
  const answer = await fetch("events", { headers: headers(), cache: "no-store", signal: live.signal });
  if (!answer.ok) {
    const { error } = await answer.json();
    throw new Error(error?.message ?? `status ${answer.status}`);
  }
  for await (const { kind, data } of parse(answer.body)) {
    if (kind === "hello") {
      $("removals").hidden = !data.keys;
      setText($("access-state"), token ? (data.keys ? "The token is in use." : "The daemon refuses this token.") : data.keys ? "None is needed here to look." : "");
    } else if (kind === "rates") {
      showRates(data);
      stop("");
      draw();
    } else if (kind === "removal") {
      showRemoval(data);
    } else if (kind !== "dropped") {
      // Something has changed.
      ask();
    }
  }
}

function stop(text) {
  document.body.classList.toggle("stopped", text !== "");
  setText($("stopped"), text);
}

/** Once a second; every ten for who wants no motion. */
function draw() {
  const now = performance.now();
  if (document.hidden || (calm.matches && now - drawn < 10_000)) return;
  drawn = now;
  drawCharts();
  drawRemovals();
}

async function keepListening() {
  for (let tries = 0; ; ) {
    if (!active || lost || document.hidden) {
      await pause(200);
      continue;
    }
    const began = performance.now();
    let why = "the daemon ended it";
    try {
      heard = began;
      await listen();
    } catch (error) {
      why = error.name === "AbortError" ? "nothing came" : error.message;
    }
    live = null;
    if (!anew) cutCharts();
    tries = performance.now() - began > LOST ? 0 : Math.min(tries + 1, 4);
    if (anew) {
      anew = false;
      continue;
    }
    if (!lost && active && !document.hidden) stop(`No live figures since ${clock(Date.now())}: ${why}; trying again.`);
    await pause(250 * 2 ** tries * (0.5 + Math.random() / 2));
  }
}

async function keepAsking() {
  for (;;) {
    if (!document.hidden) await ask();
    await pause(EVERY);
  }
}

function watch() {
  if (document.hidden) return;
  const now = performance.now();
  if (now - good.at > LOST && !lost) mark(true);
  if (live && !live.signal.aborted && now - heard > LOST) live.abort();
}

let unseen = 0;
document.addEventListener("visibilitychange", () => {
  clearTimeout(unseen);
  if (document.hidden) unseen = setTimeout(() => live?.abort(), UNSEEN);
  else ask();
});

function useToken(text) {
  token = text;
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
  $("token").value = "";
  setText($("access-state"), text ? "Asking the daemon …" : "Forgotten.");
  if (live) {
    anew = true;
    live.abort();
  }
  ask();
}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken($("token").value.trim());
});
$("forget").addEventListener("click", () => useToken(""));

setInterval(watch, 500);
drawCharts();
keepAsking();
keepListening();
