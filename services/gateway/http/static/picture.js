// Draws a session: a bar for each piece of work, coloured, lettered and patterned by what became of it.

import { LANES } from "./session.js";

const NAMES = 76, TOP = 20, ROW = 18, GAP = 8, CHARACTER = 7.2;
const LETTERS = { accepted: "A", rejected: "R", cancelled: "C", written: "W", failed: "F" };
const PATTERNS = { rejected: "url(#hatched)", cancelled: "url(#dotted)", failed: "url(#crossed)" };

function node(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// `now` is where running work is drawn to, `until` the right edge; both in seconds.
export function draw(svg, session, now, until) {
  const width = Math.max(320, svg.clientWidth || 320);
  const scale = (width - NAMES - 24) / Math.max(until, 0.001);
  const x = (seconds) => NAMES + seconds * scale;
  const parts = [];
  const tops = {};
  let y = TOP;
  for (const lane of LANES) {
    tops[lane] = y;
    parts.push(node("text", { class: "name", x: 0, y: y + 13 }, lane));
    y += Math.max(1, session.rows[lane].length) * ROW + GAP;
    parts.push(node("line", { class: "grid", x1: 0, x2: width, y1: y - GAP / 2, y2: y - GAP / 2 }));
  }
  for (const seconds of ticks(until, (width - NAMES) / 90)) {
    parts.unshift(node("line", { class: "grid", x1: x(seconds), x2: x(seconds), y1: TOP - 4, y2: y }));
    parts.push(node("text", { class: "axis", x: x(seconds), y: 12 }, said(seconds)));
  }
  for (const span of session.spans) {
    const end = span.end ?? Math.max(now, span.start);
    const box = { x: x(span.start), y: tops[span.lane] + span.row * ROW, width: Math.max(1.5, (end - span.start) * scale), height: ROW - 2 };
    const group = node("g");
    group.append(node("title", {}, describe(span)), node("rect", { class: `bar ${span.outcome}`, ...box }));
    if (span.outcome in PATTERNS) group.append(node("rect", { fill: PATTERNS[span.outcome], ...box }));
    const fits = labels(span).find((label) => label.length * CHARACTER + 2 <= box.width);
    if (fits) {
      const on = span.outcome === "running" ? { class: "on-ground" } : {};
      group.append(node("text", { ...on, x: box.x + box.width / 2, y: box.y + 12 }, fits));
    }
    parts.push(group);
  }
  for (const commit of session.commits) {
    const at = x(commit.committed);
    parts.push(node("line", { class: `commit ${commit.by}`, x1: at, x2: at, y1: TOP - 4, y2: y }));
  }
  svg.setAttribute("height", y);
  svg.setAttribute("viewBox", `0 0 ${width} ${y}`);
  svg.replaceChildren(...parts);
}

// What is said of a span, the longest first.
function labels(span) {
  const letter = LETTERS[span.outcome] ?? "";
  const what = span.work === "answer" ? "answer" : `${span.index}`;
  const short = [`${what} ${letter}`.trim(), letter || what];
  if (span.work !== "verdict" || !span.verdict) return short;
  const { score, alpha } = span.verdict;
  return [`${what} ${letter} ${score.toFixed(2)}/${alpha.toFixed(2)}`, `${what} ${letter} ${score.toFixed(2)}`, ...short];
}

function describe(span) {
  const words = [`${span.lane}: ${span.work}${span.work === "answer" ? "" : ` ${span.index}`}, ${span.outcome}`];
  if (span.verdict) words.push(`score ${span.verdict.score.toFixed(3)}, alpha ${span.verdict.alpha.toFixed(3)}`);
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
