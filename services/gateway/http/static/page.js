// The page: asks, shows what happens, and lists what was asked before.

import * as api from "./api.js";
import { encodedImages, watchImages } from "./images.js";
import { legend } from "./picture.js";
import { Run } from "./run.js";

const $ = (id) => document.getElementById(id);
const FRAME_MS = 50;

let turn = new AbortController(); // what is shown: a question, or a session of before
let runs = [];
let kept = 0; // sessions that the gateway keeps at most
let opening = 0, listing = 0; // which is the last of those that are under way

function tell(text) {
  $("status").textContent = text;
}

function fail(error) {
  if (error.status === 401) {
    $("key-field").hidden = false;
    $("key").focus();
  }
  $("problem").textContent = error.message;
}

// What was shown before is over, and what is about to be opened is not wanted any more.
function begin(shown) {
  turn.abort();
  opening++;
  runs = shown;
  $("problem").textContent = $("ratio").textContent = "";
  $("stop").disabled = true;
  $("runs").replaceChildren(...shown.map((run) => run.element));
  $("runs-section").hidden = false;
  redraw();
  return (turn = new AbortController()).signal;
}

// All at the same scale.
function redraw() {
  const until = Math.max(0.05, ...runs.map((run) => run.now)) * 1.02;
  const width = Math.max(...runs.map((run) => run.width));
  for (const run of runs) run.draw(until, width);
}

// Draws again and again, until what it returns is called. A long picture takes its time, and is drawn less often.
function animate() {
  const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
  let going = true;
  (async () => {
    while (going) {
      await new Promise(requestAnimationFrame);
      const began = performance.now();
      if (going) redraw();
      await pause(0); // behind layout and paint
      await pause(Math.max(FRAME_MS, 3 * (performance.now() - began)));
    }
  })();
  return () => {
    going = false;
  };
}

async function ask() {
  const asked = [$("policy").value, $("other").value].filter(Boolean).map((policy) => new Run(policy));
  const signal = begin(asked);
  api.setKey($("key").value);
  const request = { question: $("question").value };
  const options = { activity: true };
  if ($("window").value) options.window = $("window").valueAsNumber;
  if ($("alpha").value) options.alpha = $("alpha").valueAsNumber;
  $("stop").disabled = false;
  const still = animate();
  try {
    request.images = await encodedImages();
    for (const run of asked) await follow(run, { ...request, options: { ...options, policy: run.policy } }, signal);
    compare(asked);
  } catch (error) {
    for (const run of asked) if (!run.session.over) run.end(signal.aborted ? "stopped" : "failed");
    if (!signal.aborted) fail(error);
  } finally {
    still();
  }
  if (turn.signal !== signal) return; // something else is shown by now
  redraw();
  if (document.activeElement === $("stop")) $("ask").querySelector("[type=submit]").focus();
  $("stop").disabled = true;
  if (signal.aborted) tell("Stopped.");
  await list();
  if (kept) for (const run of asked) run.offerTrace(fail);
}

async function follow(run, request, signal) {
  signal.throwIfAborted();
  tell(`Asked, by policy ${run.policy}.`);
  for await (const event of api.reason(request, signal)) {
    signal.throwIfAborted(); // the last words of a stream that was stopped
    run.take(event, true);
    if (event.commit) {
      const { index, by, text } = run.session.commits.at(-1);
      tell(`Step ${index} committed, by the ${by}: ${text}`);
    }
  }
  const { finished, seconds } = run.session;
  if (!finished) throw new Error("the stream broke off");
  run.end();
  tell(`Policy ${run.policy} answers ${finished.answer ?? "nothing"} after ${seconds.toFixed(3)} seconds.`);
}

function compare([one, other]) {
  if (!other) return;
  const times = `${one.policy} ${one.session.seconds.toFixed(3)} s, ${other.policy} ${other.session.seconds.toFixed(3)} s`;
  const ratio = (other.session.seconds / one.session.seconds).toFixed(2);
  $("ratio").textContent = `${times}: ${one.policy} is ${ratio} times as fast as ${other.policy}.`;
}

// What was asked before.

// Of who asks now: what another one was shown before goes.
async function list() {
  const mine = ++listing;
  const { most, sessions, error } = await api.recent().catch((error) => ({ most: 0, sessions: [], error }));
  if (mine !== listing) return;
  kept = most;
  if (error?.status === 401) $("key-field").hidden = false;
  if (error) $("recent-hint").textContent = error.status === 401 && !$("key").value ? "This gateway wants an API key." : error.message;
  else if (most) $("recent-hint").textContent = `Yours of the last ${most} on this gateway, without their images; gone with it.`;
  else $("recent-hint").textContent = "This gateway keeps none (recent_sessions).";
  $("refresh").hidden = !most && !error;
  $("recent").hidden = sessions.length === 0;
  $("recent").querySelector("tbody").replaceChildren(...sessions.map(line));
}

function line(found) {
  const made = document.createElement("tr");
  const when = new Date(found.began * 1000).toLocaleString();
  const seconds = found.seconds === null ? "" : found.seconds.toFixed(3);
  for (const text of [when, found.question, found.policy, found.status, found.steps, found.answer ?? "", seconds]) {
    made.insertCell().textContent = text;
  }
  const what = `of ${when}, policy ${found.policy}: ${found.question}`;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Open" });
  button.setAttribute("aria-label", `Open the session ${what}`);
  button.addEventListener("click", () => open(found.id));
  made.insertCell().append(button);
  const link = Object.assign(document.createElement("a"), { textContent: "Trace" });
  link.setAttribute("aria-label", `Trace of the session ${what}`);
  api.downloads(link, found.id, fail);
  made.insertCell().append(link);
  return made;
}

async function open(id) {
  const mine = ++opening;
  try {
    const found = await api.session(id);
    if (mine === opening) showPast(found);
  } catch (error) {
    if (mine === opening) fail(error);
  }
}

function showPast({ policy, events, status, why, cut, began, question }) {
  const run = new Run(policy);
  for (const event of events) run.take(event, false);
  if (status === "running") run.leave();
  else run.end(...(status === "finished" ? [] : [why ? `${status}: ${why}` : status]), ...(cut ? ["too long to be kept whole"] : []));
  begin([run]);
  run.offerTrace(fail);
  $("runs-title").focus();
  tell(`Session of ${new Date(began * 1000).toLocaleString()}: ${question}`);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => turn.abort());
$("key").addEventListener("change", () => {
  api.setKey($("key").value);
  $("problem").textContent = "";
  list();
});
$("refresh").addEventListener("click", async () => {
  await list();
  tell("The list of recent sessions is new.");
});
window.addEventListener("resize", redraw);
// Browsers may keep a page that was left, and show it again.
window.addEventListener("pagehide", () => {
  turn.abort();
  api.setKey(($("key").value = ""));
});
$("other").append(...[...$("policy").options].map(({ value }) => new Option(value)));
legend($("legend"));
watchImages(tell);
list();
