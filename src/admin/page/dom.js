// Elements and texts. Whatever comes from the daemon becomes text, never markup: the page's policy forbids the latter.

export const $ = (id) => document.getElementById(id);

export function el(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Only if it differs: what a screen reader or a selection holds on to stays. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Makes `parent`'s children those of `items`, by key; `fill(child, item)` writes into a new or a kept one. */
export function sync(parent, items, make, fill) {
  const kept = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    let child = kept.get(item.key);
    if (!child) {
      child = make(item);
      child.dataset.key = item.key;
    }
    kept.delete(item.key);
    fill(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of kept.values()) child.remove();
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumFractionDigits: 1, notation: "compact" });
const digits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const NONE = "–";

export function count(n) {
  if (typeof n !== "number") return NONE;
  return n >= 1e6 ? short.format(n) : whole.format(n);
}

export function rate(n) {
  if (typeof n !== "number") return NONE;
  return n > 0 && n < 10 ? `${digits.format(n)}/s` : `${count(n)}/s`;
}

export function seconds(s) {
  if (typeof s !== "number") return NONE;
  if (s === 0) return "0 s";
  if (s < 1) return `${digits.format(s * 1000)} ms`;
  if (s < 120) return `${digits.format(s)} s`;
  if (s < 7200) return `${whole.format(s / 60)} min`;
  if (s < 172800) return `${whole.format(s / 3600)} h`;
  return `${whole.format(s / 86400)} days`;
}

export function bytes(n) {
  if (typeof n !== "number") return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (n >= 1024 && at < units.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${digits.format(n)} ${units[at]}`;
}

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;

/** Of milliseconds since 1970, in the reader's zone; with the date if it isn't today. */
export function clock(ms) {
  const at = new Date(ms);
  const time = at.toLocaleTimeString("en-GB");
  return at.toDateString() === new Date().toDateString() ? time : `${at.toLocaleDateString("en-CA")} ${time}`;
}
