// One session on the page: heading, picture, steps, answer, table and link.

import { downloads } from "./api.js";
import { draw, widthOf } from "./picture.js";
import { scored, Session } from "./session.js";

export class Run {
  constructor(policy) {
    this.session = new Session();
    this.policy = policy;
    this.began = null; // performance.now() when it was, of one that is watched live
    this.element = document.getElementById("run").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.parts = {
      title: find("h3"), summary: find(".summary"), frame: find(".wide"), lanes: find(".lanes"), picture: find(".picture"),
      list: find(".some"), steps: find(".steps"), answer: find(".answer"), trace: find(".trace"), table: find("tbody"),
    };
    this.parts.title.textContent = `Policy ${policy}`;
    const named = { ".wide": "Timeline", ".some": "Committed steps", ".words": "Picture as a table", ".trace": "Trace for Perfetto" };
    for (const [selector, name] of Object.entries(named)) find(selector).setAttribute("aria-label", `${name} of policy ${policy}`);
    this.say("waits");
  }

  // Live: as it happens.
  take(event, live) {
    this.session.take(event);
    if (event.started) {
      if (live) this.began = performance.now();
      const { policy, window = 0, alpha = 0 } = event.started;
      this.parts.title.textContent = `Policy ${policy}${window ? `, window ${window}, alpha ${+alpha.toFixed(3)}` : ""}`;
      this.say("runs");
    } else if (event.commit) {
      following(this.parts.list, live, () => this.parts.steps.append(step(this.session.commits.at(-1))));
    } else if (event.finished) {
      this.parts.answer.textContent = event.finished.answer ?? "";
    }
  }

  // Nothing more will come; `why` says what else is to be known of it.
  end(...why) {
    const { finished, seconds } = this.session;
    this.session.end();
    if (finished) why.unshift(`finished in ${seconds.toFixed(3)} s`);
    if (finished?.reason === "FINISH_REASON_LENGTH") why.push("a limit of steps or tokens ended it");
    if (finished?.degraded) why.push(`degraded: ${finished.degraded.join(", ")}`);
    this.rest(why);
  }

  // It goes on, but is not watched.
  leave() {
    this.rest(["runs; open it again for what has happened since"]);
  }

  rest([first, ...more]) {
    const { commits, finished } = this.session;
    const { steps_by_draft: draft = 0, steps_by_target: target = 0 } = finished?.totals ?? {};
    const byDraft = finished ? draft : commits.filter((commit) => commit.by === "draft").length;
    const all = finished ? draft + target : commits.length;
    this.say([first, `${byDraft} of ${all} steps by the draft`, ...more].join("; "));
    this.parts.table.replaceChildren(...this.session.spans.map((span) => row(span, this.session.last)));
  }

  // The gateway keeps it: there is something to download.
  offerTrace(failed) {
    const link = this.parts.trace;
    if (!this.session.started || !link.hidden) return;
    downloads(link, this.session.started.session_id, failed);
    link.hidden = false;
  }

  // How far the picture goes, in seconds.
  get now() {
    if (this.session.over || this.began === null) return this.session.last;
    return Math.max(this.session.last, (performance.now() - this.began) / 1000);
  }

  // How wide the picture is to be, in pixels.
  get width() {
    return widthOf(this.session, this.parts.frame.clientWidth);
  }

  draw(until, width) {
    const { frame, lanes, picture } = this.parts;
    following(frame, this.began !== null && !this.session.over, () => draw(lanes, picture, this.session, this.now, until, width));
  }

  say(text) {
    this.parts.summary.textContent = text;
    this.parts.picture.setAttribute("aria-label", `Timeline, policy ${this.policy}: ${text}. The table below says the same in words.`);
  }
}

// Who looks at the end of what grows goes on to do so.
function following(element, live, grow) {
  const { scrollLeft, scrollTop, clientWidth, clientHeight, scrollWidth, scrollHeight } = element;
  const ends = scrollLeft + clientWidth >= scrollWidth - 2 && scrollTop + clientHeight >= scrollHeight - 2;
  grow();
  if (live && ends) element.scrollTo(element.scrollWidth, element.scrollHeight);
}

function step({ index, text, by, verdict }) {
  const item = document.createElement("li");
  item.value = index; // not from 0 on, where another gateway began
  const author = document.createElement("span");
  author.className = "by";
  const judged = verdict ? `, candidate ${verdict.accept ? "accepted" : "rejected"}: ${scored(verdict, 2)}` : "";
  author.textContent = `${by}${judged}: `;
  item.append(author, text);
  return item;
}

function row(span, last) {
  const { score = null, alpha, why } = span.verdict ?? {};
  const judged = span.work !== "verdict" || !span.verdict ? ["", ""] : score === null ? [why, ""] : [score.toFixed(3), alpha.toFixed(3)];
  const cells = [span.lane, span.work, span.index, span.start.toFixed(3), (span.end ?? last).toFixed(3), span.outcome, ...judged, span.text];
  const line = document.createElement("tr");
  for (const text of cells) line.insertCell().textContent = text;
  return line;
}
