// Draws a session: a bar for each piece of work, coloured, lettered and patterned by what became of it.

import { LANES, scored } from "./session.js";

const NAMES = 76, EDGE = 24, TOP = 20, ROW = 18, GAP = 8, CHARACTER = 7.2;
// So wide is a piece of work on an average: where there are many the picture is wider than its frame.
const LEAST = 14;
// By what became of work: letter and pattern.
const LOOKS = {
  accepted: ["A"], rejected: ["R", "url(#hatched)"], cancelled: ["C", "url(#dotted)"], written: ["W"],
  failed: ["F", "url(#crossed)"], running: [""],
};

function node(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

function bar(outcome, box, label) {
  const [, pattern] = LOOKS[outcome];
  const parts = [node("rect", { class: `bar ${outcome}`, ...box })];
  if (pattern) parts.push(node("rect", { fill: pattern, ...box }));
  if (label) {
    const on = outcome === "running" ? { class: "on-ground" } : {};
    parts.push(node("text", { ...on, x: box.x + box.width / 2, y: box.y + 12 }, label));
  }
  return parts;
}

function commit(by, x, from, to) {
  return node("line", { class: `commit ${by}`, x1: x, x2: x, y1: from, y2: to });
}

// Puts what bars and lines mean before what a list has already.
export function legend(list) {
  const box = { x: 1, y: 1, width: 24, height: ROW - 4 };
  const meant = Object.keys(LOOKS).map((outcome) => [outcome, ...bar(outcome, box, LOOKS[outcome][0])]);
  for (const by of ["draft", "target"]) meant.push([`a commit, by the ${by}`, commit(by, 13, 0, ROW - 2)]);
  list.prepend(
    ...meant.map(([words, ...parts]) => {
      const picture = node("svg", { width: 26, height: ROW - 2, "aria-hidden": "true" });
      picture.append(...parts);
      const item = document.createElement("li");
      item.append(picture, ` ${words}`);
      return item;
    }),
  );
}

// How wide a session's picture is in a frame, both in pixels.
export function widthOf(session, frame) {
  const busiest = Math.max(...LANES.map((lane) => session.spans.filter((span) => span.lane === lane).length));
  return Math.max(240, frame - NAMES, busiest * LEAST);
}

// `now` is where running work is drawn to, `until` the right edge; both in seconds.
export function draw(lanes, svg, session, now, until, width) {
  const scale = (width - EDGE) / Math.max(until, 0.001);
  const x = (seconds) => seconds * scale;
  const names = [], parts = [];
  const tops = {};
  let y = TOP;
  for (const lane of LANES) {
    tops[lane] = y;
    names.push(node("text", { class: "name", x: 0, y: y + 13 }, lane));
    y += Math.max(1, session.rows[lane].length) * ROW + GAP;
    const line = { class: "grid", x1: 0, y1: y - GAP / 2, y2: y - GAP / 2 };
    names.push(node("line", { ...line, x2: NAMES }));
    parts.push(node("line", { ...line, x2: width }));
  }
  for (const seconds of ticks(until, width / 90)) {
    parts.unshift(node("line", { class: "grid", x1: x(seconds), x2: x(seconds), y1: TOP - 4, y2: y }));
    // The first one would be cut in half.
    parts.push(node("text", { class: seconds ? "axis" : "axis first", x: x(seconds), y: 12 }, said(seconds)));
  }
  for (const span of session.spans) {
    const end = span.end ?? Math.max(now, span.start);
    const box = { x: x(span.start), y: tops[span.lane] + span.row * ROW, width: Math.max(1.5, (end - span.start) * scale), height: ROW - 2 };
    const group = node("g");
    const fits = labels(span).find((label) => label.length * CHARACTER + 2 <= box.width);
    group.append(node("title", {}, describe(span)), ...bar(span.outcome, box, fits));
    parts.push(group);
  }
  for (const { by, committed } of session.commits) parts.push(commit(by, x(committed), TOP - 4, y));
  for (const [picture, wide, found] of [[lanes, NAMES, names], [svg, width, parts]]) {
    picture.setAttribute("width", wide);
    picture.setAttribute("height", y);
    picture.replaceChildren(...found);
  }
}

// What is said of a span, the longest first.
function labels({ outcome, work, index, verdict }) {
  const [letter] = LOOKS[outcome];
  const what = work === "answer" ? "answer" : `${index}`;
  const short = [`${what} ${letter}`.trim(), letter || what];
  if (work !== "verdict" || !verdict || verdict.score === null) return short;
  return [`${what} ${letter} ${scored(verdict, 2, "/")}`, `${what} ${letter} ${verdict.score.toFixed(2)}`, ...short];
}

function describe(span) {
  const words = [`${span.lane}: ${span.work}${span.work === "answer" ? "" : ` ${span.index}`}, ${span.outcome}`];
  if (span.verdict) words.push(scored(span.verdict, 3));
  if (span.text) words.push(span.text);
  return words.join("\n");
}

// Round times from 0 on, about `count` of them.
function* ticks(until, count) {
  const rough = until / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  for (let index = 0; index * step <= until; index++) yield index * step;
}

function said(seconds) {
  if (seconds === 0) return "0";
  return seconds < 1 ? `${+(seconds * 1000).toPrecision(3)} ms` : `${+seconds.toPrecision(3)} s`;
}
