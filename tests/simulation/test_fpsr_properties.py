"""The rules of FPSR hold for every order of events, with and without faults."""

from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.fpsr import Machine
from services.gateway.messages import Aborted, Author, Fail, Finish
from services.gateway.policy import EXACT, POLICIES, Policy
from services.gateway.rule import Rule
from services.gateway.speculation import Speculation
from tests.simulation.world import World

policies = st.builds(
    Policy,
    name=st.just("any"),
    window=st.integers(0, 5),
    rivals=st.integers(0, 3),
    width=st.integers(1, 3),
    first_on_target=st.sampled_from([0, 0, 1, 3]),
    answer_by=st.sampled_from(list(Author)),
    grace_seconds=st.just(0.5),
) | st.builds(
    Policy,
    name=st.just("comparing"),
    window=st.integers(0, 5),
    rivals=st.integers(1, 5),
    rule=st.sampled_from([Rule.EQUIVALENCE, Rule.EQUALITY]),
    width=st.integers(1, 3),
)


def world(data: st.DataObject, policy: Policy, *, faults: bool, wordings: int = 2) -> World:
    machine = Machine(
        policy,
        max_steps=data.draw(st.integers(1, 7), label="max_steps"),
        max_tokens=data.draw(st.none() | st.integers(1, 20), label="max_tokens"),
        max_repeats=data.draw(st.sampled_from([0, 0, 1, 2]), label="max_repeats"),
        speculation=data.draw(st.sampled_from(list(Speculation)), label="speculation"),
    )
    return World(
        machine,
        lambda names: data.draw(st.sampled_from(names)) if len(names) > 1 else names[0],
        faults=faults,
        wordings=wordings,
    )


@settings(max_examples=600, deadline=None)
@given(data=st.data(), policy=policies)
def test_any_order_of_events_with_faults(data: st.DataObject, policy: Policy) -> None:
    session = world(data, policy, faults=True)
    session.run()
    assert tuple(step.text for step in session.machine.committed) == session.referee.texts


@settings(max_examples=300, deadline=None)
@given(data=st.data(), policy=policies)
def test_without_faults_every_session_is_answered(data: st.DataObject, policy: Policy) -> None:
    session = world(data, policy, faults=False)
    session.run()
    assert isinstance(session.referee.end, Finish)
    assert session.referee.reasoned_enough()
    assert not session.machine.degraded


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_the_target_policy_commits_only_the_targets_steps(data: st.DataObject) -> None:
    session = world(data, Policy("target", window=0), faults=False)
    session.run()
    assert {commit.author for commit in session.referee.commits} == {Author.TARGET}


@settings(max_examples=200, deadline=None)
@given(data=st.data(), policy=policies, when=st.integers(0, 25))
def test_an_abort_stops_everything(data: st.DataObject, policy: Policy, when: int) -> None:
    session = world(data, policy, faults=True)
    session.begin()
    while session.referee.end is None and session.events < when:
        session.tell(session.happen())
    if session.referee.end is None:
        session.tell(Aborted("the client left"))
        assert session.referee.end == Fail("the client left")
    assert all(session.referee.idle(call) for call in session.running)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), faults=st.booleans(), wordings=st.integers(1, 3))
def test_exact_commits_what_the_target_alone_would(data: st.DataObject, faults: bool, wordings: int) -> None:
    session = world(data, EXACT, faults=faults, wordings=wordings)
    session.run()
    committed: tuple[str, ...] = ()
    for commit in session.referee.commits:
        wanted = session.targets[committed]
        assert (commit.step.text, commit.step.closes) == (wanted.text, wanted.closes)
        committed += (commit.step.text,)


@settings(max_examples=400, deadline=None)
@given(data=st.data(), policy=st.sampled_from(list(POLICIES.values())))
def test_every_named_policy_ends_with_an_answer(data: st.DataObject, policy: Policy) -> None:
    session = world(data, policy, faults=False)
    session.run()
    assert isinstance(session.referee.end, Finish)
