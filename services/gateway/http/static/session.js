// What a session's events say: spans of work in lanes, committed steps, and the end. Knows no DOM.

export const LANES = ["draft", "target", "verifier"];
const LANE_OF = { PART_DRAFT: "draft", PART_RIVAL: "target", PART_ANSWER: "target", PART_VERDICT: "verifier" };
const WORK_OF = { PART_DRAFT: "candidate", PART_RIVAL: "rival", PART_ANSWER: "answer", PART_VERDICT: "verdict" };

export class Session {
  constructor() {
    this.started = null;
    this.finished = null;
    this.spans = []; // {lane, work, index, start, end, outcome, text, verdict, row}; seconds
    this.commits = []; // {index, text, by, verdict, committed}
    this.last = 0;
    this.over = false;
    this.open = new Map();
    this.rows = Object.fromEntries(LANES.map((lane) => [lane, []]));
  }

  // Protobuf's JSON leaves out zeros and false.
  take(event) {
    if (event.started) this.started = event.started;
    else if (event.activity) this.activity(event.activity);
    else if (event.commit) this.commit(event.commit);
    else if (event.finished) {
      this.finished = event.finished;
      this.last = Math.max(this.last, this.seconds);
      this.end();
    }
  }

  // No more events will come: candidates that nobody judged were thrown away.
  end() {
    this.over = true;
    for (const span of this.spans) {
      if (span.end === null) this.close(span, this.last, "cancelled");
      if (span.lane === "draft" && span.outcome === "written") span.outcome = "cancelled";
    }
    this.open.clear();
  }

  activity({ call = 0, part, phase, index = 0, at = 0, text = "", verdict }) {
    if (!(part in LANE_OF)) return;
    this.last = Math.max(this.last, at);
    const span = this.open.get(call);
    if (phase === "PHASE_STARTED") {
      this.begin(call, part, index, at);
    } else if (span === undefined) {
      return;
    } else if (phase === "PHASE_STEP") {
      this.close(span, at, "written", text);
      this.begin(call, part, index + 1, at);
    } else {
      this.open.delete(call);
      if (phase === "PHASE_CANCELLED") this.close(span, at, "cancelled");
      else if (phase === "PHASE_FAILED") this.close(span, at, "failed", text);
      else if (verdict) this.judged(span, at, evidence(verdict));
      else if (part === "PART_ANSWER") this.close(span, at, "written", text);
      else this.drop(span);
    }
  }

  judged(span, at, verdict) {
    const outcome = verdict.accept ? "accepted" : "rejected";
    span.verdict = verdict;
    this.close(span, at, outcome);
    const candidate = this.text("draft", span.index, ({ outcome }) => outcome === "written");
    if (candidate) Object.assign(candidate, { outcome, verdict });
  }

  commit({ index = 0, step = {}, author, verdict, timings = {} }) {
    const by = author === "AUTHOR_DRAFT" ? "draft" : "target";
    const { text = "" } = step;
    const committed = timings.committed ?? 0;
    this.last = Math.max(this.last, committed);
    this.commits.push({ index, text, by, verdict: verdict && evidence(verdict), committed });
    // An older one of the same position was thrown away, and stays so.
    const span = this.text(by, index, (span) => span.text === text);
    if (span?.outcome === "written") span.outcome = "accepted";
  }

  // The last that a lane has written for a position.
  text(lane, index, fits) {
    return this.spans.findLast(
      (span) => span.lane === lane && span.index === index && span.end !== null && span.work !== "answer" && fits(span),
    );
  }

  begin(call, part, index, start) {
    const lane = LANE_OF[part];
    const span = { lane, work: WORK_OF[part], index, start, end: null, outcome: "running", text: "", verdict: null };
    // The first row that is free: a span stays where it was begun.
    const rows = this.rows[lane];
    const free = rows.findIndex((other) => other.end !== null && other.end <= start);
    span.row = free < 0 ? rows.length : free;
    rows[span.row] = span;
    this.open.set(call, span);
    this.spans.push(span);
  }

  // What follows a call's last step is its end, not work.
  drop(span) {
    this.spans.splice(this.spans.indexOf(span), 1);
    span.end = span.start; // its row is free
  }

  close(span, end, outcome, text = "") {
    Object.assign(span, { end, outcome, text });
  }

  // How long it took; null without an end.
  get seconds() {
    return this.finished && (this.finished.seconds ?? 0);
  }
}

// Of a verdict what is shown: `score` is null where nobody scored, and `why` says what decided then.
function evidence({ accept = false, score = 0, alpha = 0, mass = 0, reason = "" }) {
  const why = reason.replace("VERDICT_REASON_", "").replaceAll("_", " ").toLowerCase();
  return { accept, score: mass > 0 ? score : null, alpha, why };
}

// The evidence in words.
export function scored({ score, alpha, why }, digits, between = " against ") {
  return score === null ? why : `${score.toFixed(digits)}${between}${alpha.toFixed(digits)}`;
}
