// One session on the page: heading, picture, steps, answer, table and link.

import { downloads } from "./api.js";
import { draw } from "./picture.js";
import { Session } from "./session.js";

export class Run {
  constructor(policy) {
    this.session = new Session();
    this.policy = policy;
    this.began = null;
    this.why = "";
    this.element = document.getElementById("run").content.firstElementChild.cloneNode(true);
    const find = (selector) => this.element.querySelector(selector);
    this.parts = {
      title: find("h3"), summary: find(".summary"), picture: find(".picture"), steps: find(".steps"),
      answer: find(".answer"), trace: find(".trace"), table: find("tbody"),
    };
    this.parts.title.textContent = `Policy ${policy}`;
    find(".scrolls").setAttribute("aria-label", `Work of policy ${policy}`);
    this.say("waits for a place");
  }

  take(event) {
    this.session.take(event);
    if (event.started) {
      this.began = performance.now();
      const { policy, window = 0, alpha = 0 } = event.started;
      this.parts.title.textContent = `Policy ${policy}${window ? `, window ${window}, alpha ${+alpha.toFixed(3)}` : ""}`;
      this.say("runs");
    } else if (event.commit) {
      this.parts.steps.append(step(this.session.commits.at(-1)));
    } else if (event.finished) {
      this.parts.answer.textContent = event.finished.answer ?? "";
    }
  }

  // Nothing more will come.
  end(why = "") {
    this.session.end();
    const { finished, commits, seconds } = this.session;
    const byDraft = commits.filter((commit) => commit.by === "draft").length;
    const counts = `${byDraft} of ${commits.length} steps by the draft`;
    this.say(finished ? `finished in ${seconds.toFixed(3)} s; ${counts}` : `${why || "ended"}; ${counts}`);
    this.parts.table.replaceChildren(...this.session.spans.map(row));
  }

  // The gateway keeps it: there is something to download.
  offerTrace(failed) {
    const link = this.parts.trace;
    if (!this.session.started || !link.hidden) return;
    downloads(link, this.session.started.session_id, failed);
    link.setAttribute("aria-label", `Trace for Perfetto of policy ${this.policy}`);
    link.hidden = false;
  }

  // How far the picture goes, in seconds.
  get now() {
    if (this.session.over || this.began === null) return this.session.last;
    return Math.max(this.session.last, (performance.now() - this.began) / 1000);
  }

  draw(until) {
    draw(this.parts.picture, this.session, this.now, until);
  }

  say(text) {
    this.parts.summary.textContent = text;
    this.parts.picture.setAttribute("aria-label", `Timeline, policy ${this.policy}: ${text}. The table below says the same in words.`);
  }
}

function step({ text, by, verdict }) {
  const item = document.createElement("li");
  const author = document.createElement("span");
  author.className = "by";
  const score = verdict ? `, candidate ${verdict.accept ? "accepted" : "rejected"} with ${(verdict.score ?? 0).toFixed(2)} against ${(verdict.alpha ?? 0).toFixed(2)}` : "";
  author.textContent = `${by}${score}: `;
  item.append(author, text);
  return item;
}

function row(span) {
  const verdict = span.work === "verdict" ? span.verdict : null;
  const cells = [
    span.lane, span.work, span.index, span.start.toFixed(3), span.end.toFixed(3), span.outcome,
    verdict ? verdict.score.toFixed(3) : "", verdict ? verdict.alpha.toFixed(3) : "", span.text,
  ];
  const line = document.createElement("tr");
  for (const text of cells) line.insertCell().textContent = text;
  return line;
}
