"""One example for each rule of the state machine; the properties are in tests/simulation."""

from dataclasses import replace

import pytest

from services.gateway.fpsr import Machine
from services.gateway.messages import (
    Answered,
    Author,
    CallFailed,
    Command,
    CommitStep,
    Drafted,
    DraftEnded,
    Fail,
    Failure,
    Finish,
    GraceOver,
    Judged,
    Reason,
    RivalDone,
    RivalEnded,
    StartAnswer,
    StartDraft,
    StartGrace,
    StartRival,
    StartVerdict,
    Step,
    Stop,
    Verdict,
)
from services.gateway.policy import EXACT, FPSR, LOOKAHEAD, SPECREASON, TARGET, Policy

YES, NO = Verdict(accept=True), Verdict(accept=False)
A, B, C = Step("a"), Step("b"), Step("c")
END = Step("end", closes=True)


def started(policy: Policy = FPSR, max_steps: int = 8) -> Machine:
    """A machine whose draft is call 2 and whose first rival is call 1 (with FPSR)."""
    machine = Machine(policy, max_steps)
    machine.start()
    return machine


def test_drafting_and_the_rival_begin_together() -> None:
    assert Machine(FPSR, 8).start() == [StartRival(1, 0, ()), StartDraft(2, 0, (), 4)]


def test_a_candidate_is_judged_as_soon_as_it_is_drafted_given_those_before_it() -> None:
    machine = started()
    assert machine.handle(Drafted(2, A)) == [StartVerdict(3, 0, (), A)]
    assert machine.handle(Drafted(2, B)) == [StartVerdict(4, 1, ("a",), B)]


def test_an_accepted_frontier_commits_and_stops_its_rival() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    commands = machine.handle(Judged(3, YES))
    assert commands == [CommitStep(0, A, Author.DRAFT, 2, YES), Stop(1), StartRival(4, 1, ("a",))]


def test_a_verdict_out_of_order_waits_for_the_frontier() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(2, B))
    assert machine.handle(Judged(4, YES)) == []
    commands = machine.handle(Judged(3, YES))
    assert [command.index for command in commands if isinstance(command, CommitStep)] == [0, 1]


def test_a_reject_stops_all_that_was_built_on_it_and_commits_the_rival_when_done() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(2, B))
    assert machine.handle(Judged(3, NO)) == [Stop(2), Stop(4)]
    assert machine.handle(RivalDone(1, C)) == [
        CommitStep(0, C, Author.TARGET, 1, NO),
        StartRival(5, 1, ("c",)),
        StartDraft(6, 1, ("c",), 4),
    ]


def test_a_reject_behind_the_frontier_starts_its_rival_at_once() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(2, B))
    machine.handle(Drafted(2, C))
    assert machine.handle(Judged(4, NO)) == [Stop(2), Stop(5), StartRival(6, 1, ("a",))]


def test_a_rival_that_is_done_before_its_candidate_exists_is_committed() -> None:
    machine = started()
    commands = machine.handle(RivalDone(1, A))
    assert commands == [
        Stop(2),
        CommitStep(0, A, Author.TARGET, 1, None),
        StartRival(3, 1, ("a",)),
        StartDraft(4, 1, ("a",), 4),
    ]


def test_a_rival_with_the_same_text_accepts_the_candidate() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    commit = machine.handle(RivalDone(1, Step("a", tokens=9)))[1]
    assert isinstance(commit, CommitStep)
    assert commit.author is Author.DRAFT
    assert commit.verdict == Verdict(accept=True, reason=Reason.EQUAL_TO_RIVAL)


def test_a_different_rival_waits_for_the_verdict_within_its_grace() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    assert machine.handle(RivalDone(1, B)) == [StartRival(4, 1, ("a",)), StartGrace(5, 0)]
    commands = machine.handle(GraceOver(5))
    assert commands[0] == Stop(3)
    late = Verdict(accept=False, reason=Reason.LATE)
    assert CommitStep(0, B, Author.TARGET, 1, late) in commands


def test_the_window_bounds_the_candidates_in_flight() -> None:
    machine = started()
    for _ in range(4):
        machine.handle(Drafted(2, A))
    assert machine.handle(DraftEnded(2)) == []
    commands = machine.handle(Judged(3, YES))
    assert commands[-1] == StartDraft(8, 4, ("a", "a", "a", "a"), 1)


def test_the_closing_candidate_is_judged_and_then_the_target_answers() -> None:
    machine = started()
    machine.handle(Drafted(2, END))
    assert machine.handle(DraftEnded(2)) == []
    commands = machine.handle(Judged(3, YES))
    assert commands == [CommitStep(0, END, Author.DRAFT, 2, YES), Stop(1), StartAnswer(4, ("end",))]
    assert machine.handle(Answered(4, "42")) == [Finish("42", length=False)]
    assert machine.over


def test_the_limit_of_steps_ends_the_reasoning() -> None:
    machine = started(max_steps=1)
    machine.handle(Drafted(2, A))
    machine.handle(Judged(3, YES))
    assert machine.handle(Answered(4, "42")) == [Finish("42", length=True)]


def test_a_truncated_candidate_is_rejected_unasked() -> None:
    machine = started()
    assert machine.handle(Drafted(2, Step("a", truncated=True))) == [Stop(2)]


def test_without_the_draft_the_target_reasons_on_alone() -> None:
    machine = started()
    assert machine.handle(CallFailed(2, "gone")) == []
    commands = machine.handle(RivalDone(1, A))
    assert commands == [CommitStep(0, A, Author.TARGET, 1, None), StartRival(3, 1, ("a",), steps=0)]
    assert machine.degraded == ["draft: gone"]


def test_without_the_verifier_nothing_is_accepted() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    assert machine.handle(CallFailed(3, "gone")) == [Stop(2)]
    commit = machine.handle(RivalDone(1, B))[0]
    assert commit == CommitStep(0, B, Author.TARGET, 1, Verdict(accept=False, reason=Reason.UNAVAILABLE))


def test_without_the_target_the_session_fails_and_keeps_what_is_committed() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    machine.handle(Judged(3, YES))
    machine.handle(Drafted(2, B))
    machine.handle(Judged(5, NO))
    assert machine.handle(CallFailed(4, "gone")) == [Fail("target: gone", 4)]
    assert machine.committed == [A]


def test_a_rival_that_nobody_needs_may_fail() -> None:
    machine = started()
    assert machine.handle(CallFailed(1, "full", Failure.OVERLOADED)) == []
    machine.handle(Drafted(2, A))
    assert isinstance(machine.handle(Judged(3, YES))[0], CommitStep)


def test_a_rival_that_failed_is_tried_again_when_it_is_needed() -> None:
    machine = started()
    machine.handle(CallFailed(1, "full", Failure.OVERLOADED))
    machine.handle(Drafted(2, A))
    # Call 4 was the rival behind the candidate.
    assert machine.handle(Judged(3, NO)) == [Stop(2), Stop(4), StartRival(5, 0, ())]
    assert machine.handle(CallFailed(5, "gone")) == [Fail("target: gone", 5)]


def test_a_full_judge_rejects_and_the_draft_goes_on() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    machine.handle(CallFailed(3, "full", Failure.OVERLOADED))
    assert StartDraft(5, 1, ("c",), 4) in machine.handle(RivalDone(1, C))
    assert not machine.degraded


def test_a_full_context_ends_in_an_answer() -> None:
    machine = Machine(TARGET, 8)
    machine.start()
    machine.handle(RivalDone(1, A))
    assert machine.handle(CallFailed(1, "too long", Failure.REFUSED)) == [StartAnswer(2, ("a",))]
    assert machine.handle(Answered(2, "42")) == [Finish("42", length=True)]


def test_a_target_that_runs_ahead_of_the_commits_keeps_its_steps_in_order() -> None:
    machine = Machine(replace(FPSR, width=2), 8)
    machine.start()
    machine.handle(CallFailed(1, "gone"))
    machine.handle(Drafted(3, A))  # another worker's candidate; call 4 is its verdict
    assert machine.handle(CallFailed(2, "gone"))[-1] == StartRival(5, 0, (), steps=0)
    machine.handle(RivalDone(5, B))
    machine.handle(RivalDone(5, C))
    assert machine.committed == []
    machine.handle(Judged(4, NO))
    assert machine.committed == [B, C]


def test_the_draft_may_be_trusted_with_the_answer_and_the_target_stands_in() -> None:
    machine = started(replace(FPSR, answer_by=Author.DRAFT))
    machine.handle(Drafted(2, END))
    assert machine.handle(Judged(3, YES))[-1] == StartAnswer(4, ("end",), Author.DRAFT)
    assert machine.handle(CallFailed(4, "gone")) == [StartAnswer(5, ("end",), Author.TARGET)]
    assert machine.handle(Answered(5, "42")) == [Finish("42", length=False)]


def test_the_rival_of_an_accepted_candidate_is_stopped_before_its_turn() -> None:
    machine = Machine(replace(FPSR, rivals=2), 8)
    machine.start()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(2, B))
    # Call 4 is the rival for position 1; candidate 1 is accepted before candidate 0.
    assert machine.handle(Judged(5, YES))[0] == Stop(4)


def test_the_target_alone_runs_on_through_the_positions() -> None:
    machine = Machine(TARGET, 8)
    assert machine.start() == [StartRival(1, 0, (), steps=0)]
    assert machine.handle(RivalDone(1, A)) == [CommitStep(0, A, Author.TARGET, 1, None)]
    assert machine.handle(RivalDone(1, END)) == [
        CommitStep(1, END, Author.TARGET, 1, None),
        Stop(1),
        StartAnswer(2, ("a", "end")),
    ]


def test_a_target_that_ends_early_is_started_again_from_the_frontier() -> None:
    machine = started(TARGET)
    machine.handle(RivalDone(1, A))
    assert machine.handle(RivalEnded(1)) == [StartRival(2, 1, ("a",), steps=0)]
    assert machine.handle(RivalEnded(2)) == [Fail("the target wrote nothing", 2)]


def test_late_replies_of_stopped_calls_change_nothing() -> None:
    machine = started()
    machine.handle(Drafted(2, A))
    machine.handle(Judged(3, NO))
    assert machine.handle(Drafted(2, B)) == []
    assert machine.handle(Judged(3, YES)) == []


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_steps"):
        Machine(FPSR, 0)
    with pytest.raises(ValueError, match="negative"):
        Policy("bad", window=-1)


def kinds(commands: list[Command]) -> list[str]:
    return [type(command).__name__ for command in commands]


def test_specreason_does_one_thing_at_a_time() -> None:
    machine = Machine(SPECREASON, 8)
    assert machine.start() == [StartDraft(1, 0, (), 1)]
    assert machine.handle(Drafted(1, A)) == [StartVerdict(2, 0, (), A)]
    machine.handle(DraftEnded(1))
    assert kinds(machine.handle(Judged(2, YES))) == ["CommitStep", "StartDraft"]
    assert machine.handle(Drafted(3, B)) == [StartVerdict(4, 1, ("a",), B)]
    assert kinds(machine.handle(Judged(4, NO))) == ["Stop", "StartRival"]


def test_lookahead_judges_a_candidate_once_its_rival_is_written() -> None:
    machine = Machine(LOOKAHEAD, 8)
    machine.start()
    assert kinds(machine.handle(Drafted(2, A))) == ["StartRival"]
    assert StartVerdict(4, 0, (), A, B) in machine.handle(RivalDone(1, B))


def test_lookahead_asks_no_judge_about_equal_texts() -> None:
    machine = Machine(LOOKAHEAD, 8)
    machine.start()
    machine.handle(Drafted(2, A))
    assert "StartVerdict" not in kinds(machine.handle(RivalDone(1, A)))
    assert machine.committed == [A]


@pytest.mark.parametrize(("candidate", "rival"), [(Step("a", closes=True), B), (A, END)])
def test_lookahead_never_takes_an_end_for_no_end(candidate: Step, rival: Step) -> None:
    machine = Machine(LOOKAHEAD, 8)
    machine.start()
    machine.handle(Drafted(2, candidate))
    commands = machine.handle(RivalDone(1, rival))
    assert "StartVerdict" not in kinds(commands)
    assert machine.committed == [rival]


def test_a_verdict_about_the_rival_is_waited_for() -> None:
    machine = Machine(LOOKAHEAD, 8)
    machine.start()
    machine.handle(Drafted(2, A))
    assert "StartGrace" not in kinds(machine.handle(RivalDone(1, B)))


def test_exact_keeps_the_targets_own_step_only() -> None:
    machine = Machine(EXACT, 8)
    machine.start()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(2, B))
    commands = machine.handle(RivalDone(1, C))
    assert machine.committed == [C]
    assert Stop(2) in commands
    assert not [command for command in commands if isinstance(command, StartVerdict)]


def test_exact_learns_of_a_difference_behind_the_frontier_at_once() -> None:
    machine = Machine(EXACT, 8)
    machine.start()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(2, B))
    # Call 3 is the rival for position 1, behind candidate A.
    assert Stop(2) in machine.handle(RivalDone(3, C))


def test_several_workers_write_for_the_frontier_and_the_first_accepted_is_kept() -> None:
    machine = Machine(replace(FPSR, width=3), 8)
    assert machine.start()[1:] == [
        StartDraft(2, 0, (), 4),
        StartDraft(3, 0, (), 1, lane=1),
        StartDraft(4, 0, (), 1, lane=2),
    ]
    machine.handle(Drafted(2, A))
    assert machine.handle(Drafted(4, B)) == [StartVerdict(6, 0, (), B)]
    commands = machine.handle(Judged(6, YES))
    assert machine.committed == [B]
    # The chain's own candidate, its verdict, the other worker and the rival: all of them are stopped.
    assert {command.call for command in commands if isinstance(command, Stop)} >= {1, 2, 3, 5}


def test_candidates_that_say_the_same_share_a_verdict() -> None:
    machine = Machine(replace(FPSR, width=2), 8)
    machine.start()
    assert machine.handle(Drafted(2, A))[0] == StartVerdict(4, 0, (), A)
    assert machine.handle(Drafted(3, A)) == []
    machine.handle(Judged(4, NO))
    machine.handle(RivalDone(1, C))
    assert machine.committed == [C]


def test_the_rival_waits_for_every_candidate_of_the_frontier() -> None:
    machine = Machine(replace(FPSR, width=2), 8)
    machine.start()
    machine.handle(Drafted(2, A))
    machine.handle(Drafted(3, B))
    machine.handle(Judged(4, NO))
    machine.handle(RivalDone(1, C))
    assert not machine.committed
    machine.handle(Judged(5, NO))
    assert machine.committed == [C]


def test_the_first_steps_can_be_the_targets() -> None:
    machine = Machine(replace(FPSR, first_on_target=2), 8)
    assert machine.start() == [StartRival(1, 0, ())]
    assert kinds(machine.handle(RivalDone(1, A))) == ["CommitStep", "StartRival"]
    machine.handle(RivalDone(2, B))
    assert machine.committed == [A, B]
    assert machine._draft is not None


def test_a_budget_of_tokens_ends_the_reasoning() -> None:
    machine = Machine(FPSR, 8, max_tokens=10)
    machine.start()
    machine.handle(Drafted(2, Step("a", tokens=10)))
    assert isinstance(machine.handle(Judged(3, YES))[-1], StartAnswer)


def test_reasoning_in_circles_ends() -> None:
    machine = Machine(TARGET, 8, max_repeats=2)
    machine.start()
    machine.handle(RivalDone(1, A))
    machine.handle(RivalDone(1, A))
    assert isinstance(machine.handle(RivalDone(1, A))[-1], StartAnswer)
