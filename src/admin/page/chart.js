// Lines of the last ten minutes, drawn as SVG paths.

import { el, setText } from "./dom.js";

const SPAN = 600_000;
/** A page that was just opened begins with a line that can be seen. */
const LEAST = 60_000;
const WIDTH = 600;
const HEIGHT = 100;
const SVG = "http://www.w3.org/2000/svg";
const CLASSES = ["first", "second"];

function svg(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export class Chart {
  /** `lines`: one or two names; `format` writes a value. */
  constructor(parent, id, title, lines, format) {
    this.title = title;
    this.lines = lines;
    this.format = format;
    this.points = [];
    const figure = el("figure");
    figure.id = id;
    const caption = el("figcaption");
    caption.append(el("strong", "", title));
    this.now = el("span", "now");
    if (lines.length > 1) {
      lines.forEach((name, at) => caption.append(el("span", CLASSES[at], `${at ? "╌" : "─"} ${name}`)));
    }
    caption.append(this.now);
    this.picture = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
    this.paths = lines.map((_, at) => svg("path", { class: CLASSES[at] }));
    this.picture.append(...this.paths);
    this.top = el("span");
    const axis = el("div", "axis");
    this.from = el("span");
    axis.append(this.from, this.top, el("span", "", "now"));
    figure.append(caption, this.picture, axis);
    parent.append(figure);
  }

  /** Values at a time, one per line; null: there is none. */
  add(at, values) {
    this.points.push({ at, values });
    while (this.points.length && this.points[0].at < at - SPAN) this.points.shift();
    setText(this.now, values.map((value) => this.format(value)).join(" · "));
  }

  /** A break in the lines: nothing is known from here on. */
  cut() {
    const last = this.points.at(-1);
    if (last && last.values.some((value) => value !== null)) {
      this.points.push({ at: last.at, values: this.lines.map(() => null) });
    }
  }

  draw(now) {
    const all = this.points.flatMap((point) => point.values).filter((value) => typeof value === "number");
    const most = all.reduce((most, value) => Math.max(most, value), 0);
    const oldest = this.points.length ? now - this.points[0].at : 0;
    const span = Math.min(SPAN, Math.max(LEAST, Math.ceil(oldest / LEAST) * LEAST));
    setText(this.from, `${span / 60_000} min ago`);
    this.paths.forEach((path, line) => path.setAttribute("d", this.path(now, span, line, most || 1)));
    setText(this.top, all.length ? `up to ${this.format(most)}` : "");
    this.picture.setAttribute(
      "aria-label",
      all.length ? `${this.title}, last ${span / 60_000} minutes: up to ${this.format(most)}` : `${this.title}: nothing yet`,
    );
  }

  path(now, span, line, most) {
    let d = "";
    let pen = "M";
    for (const { at, values } of this.points) {
      const value = values[line];
      if (typeof value !== "number") {
        pen = "M";
        continue;
      }
      if (now - at > span) continue;
      const x = WIDTH - ((now - at) / span) * WIDTH;
      const y = HEIGHT - 2 - (value / most) * (HEIGHT - 6);
      d += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = "L";
    }
    return d;
  }
}
