// The page: asks, shows what happens, and lists what was asked before.

import * as api from "./api.js";
import { encodedImages, watchImages } from "./images.js";
import { Run } from "./run.js";

const $ = (id) => document.getElementById(id);
const FRAME_MS = 50;

let asking = null; // AbortController of the question under way
let runs = [];
let kept = 0; // sessions that the gateway keeps at most

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

function show(shown) {
  runs = shown;
  $("runs").replaceChildren(...shown.map((run) => run.element));
  $("runs-section").hidden = false;
  $("ratio").textContent = "";
  redraw();
}

// All at the same scale.
function redraw() {
  const until = Math.max(0.05, ...runs.map((run) => run.now)) * 1.02;
  for (const run of runs) run.draw(until);
}

async function ask() {
  asking?.abort();
  const mine = (asking = new AbortController());
  $("problem").textContent = "";
  api.setKey($("key").value);
  $("stop").disabled = false;
  const request = { question: $("question").value };
  const options = { activity: true };
  if ($("window").value) options.window = $("window").valueAsNumber;
  if ($("alpha").value) options.alpha = $("alpha").valueAsNumber;
  const shown = [$("policy").value, $("other").value].filter(Boolean).map((policy) => new Run(policy));
  show(shown);
  const timer = setInterval(redraw, FRAME_MS);
  try {
    request.images = await encodedImages();
    for (const run of shown) await follow(run, { ...request, options: { ...options, policy: run.policy } }, mine);
    compare(shown);
  } catch (error) {
    for (const run of shown) if (!run.session.over) run.end(mine.signal.aborted ? "stopped" : "failed");
    if (!mine.signal.aborted) fail(error);
  } finally {
    clearInterval(timer);
    if (asking === mine) {
      asking = null;
      redraw();
      if (document.activeElement === $("stop")) $("ask").querySelector("[type=submit]").focus();
      $("stop").disabled = true;
      if (mine.signal.aborted) tell("Stopped.");
      await list();
      offer(shown);
    }
  }
}

async function follow(run, request, { signal }) {
  tell(`Asked, by policy ${run.policy}.`);
  for await (const event of api.reason(request, signal)) {
    run.take(event);
    if (event.commit) {
      const { index, by, text } = run.session.commits.at(-1);
      tell(`Step ${index} committed, by the ${by}: ${text}`);
    }
  }
  if (!run.session.finished) throw new Error("the stream broke off");
  run.end();
  tell(`Policy ${run.policy} answers ${run.session.finished.answer ?? ""} after ${run.session.seconds.toFixed(3)} seconds.`);
}

function offer(shown) {
  if (kept) for (const run of shown) run.offerTrace(fail);
}

function compare([one, other]) {
  if (!other) return;
  const times = `${one.policy} ${one.session.seconds.toFixed(3)} s, ${other.policy} ${other.session.seconds.toFixed(3)} s`;
  const ratio = (other.session.seconds / one.session.seconds).toFixed(2);
  $("ratio").textContent = `${times}: ${one.policy} is ${ratio} times as fast as ${other.policy}.`;
}

// What was asked before.

async function list() {
  try {
    const { most, sessions } = await api.recent();
    kept = most;
    $("recent-hint").textContent = most
      ? `Yours of the last ${most} on this gateway, without their images; gone with it.`
      : "This gateway keeps none (recent_sessions).";
    $("refresh").hidden = !most;
    $("recent").hidden = sessions.length === 0;
    $("recent").tBodies[0].replaceChildren(...sessions.map(line));
  } catch (error) {
    if (error.status !== 401) return fail(error);
    $("key-field").hidden = false;
    $("recent-hint").textContent = "This gateway wants an API key.";
  }
}

function line(found) {
  const made = document.createElement("tr");
  const when = new Date(found.began * 1000).toLocaleTimeString();
  const seconds = found.seconds === null ? "" : found.seconds.toFixed(3);
  for (const text of [when, found.question, found.policy, found.status, found.steps, found.answer ?? "", seconds]) {
    made.insertCell().textContent = text;
  }
  const what = `of ${when}, policy ${found.policy}: ${found.question}`;
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: "Open" });
  button.setAttribute("aria-label", `Open the session ${what}`);
  button.addEventListener("click", () => open(found.id).catch(fail));
  made.insertCell().append(button);
  const link = Object.assign(document.createElement("a"), { textContent: "Trace" });
  link.setAttribute("aria-label", `Trace of the session ${what}`);
  api.downloads(link, found.id, fail);
  made.insertCell().append(link);
  return made;
}

async function open(id) {
  const found = await api.session(id);
  asking?.abort();
  const run = new Run(found.policy);
  for (const event of found.events) run.take(event);
  run.end(found.why || found.status);
  show([run]);
  offer([run]);
  $("runs-title").focus();
  tell(`Session of ${new Date(found.began * 1000).toLocaleTimeString()}: ${found.question}`);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
$("stop").addEventListener("click", () => asking?.abort());
$("key").addEventListener("change", () => {
  api.setKey($("key").value);
  $("problem").textContent = "";
  list();
});
$("refresh").addEventListener("click", list);
window.addEventListener("resize", redraw);
watchImages(tell);
list();
