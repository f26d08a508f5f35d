"""Bad requests come back by their seeds, cover every field, and are judged as they should be."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from google.protobuf.message import DecodeError

from bench.fuzz import images, wire
from bench.fuzz.cases import GRPC_SAYS, NOBODY, PLAIN, STRANGER, Call, Case, make
from bench.fuzz.health import MAX_LINE_BYTES, Health
from bench.fuzz.run import Found
from bench.fuzz.send import HANG, Outcome, Sender
from bench.fuzz.values import Values, fields_of
from dreamr.cluster.cluster import Cluster
from dreamr.tls import ROLES, SERVICES
from dreamr.v1 import gateway_pb2
from tests.unit.running_gateway import gateway

SEEDS = range(2_000)


@pytest.mark.parametrize("tls", [False, True])
def test_a_seed_is_a_request(tls: bool) -> None:
    assert [make(seed, tls=tls) for seed in SEEDS[:200]] == [make(seed, tls=tls) for seed in SEEDS[:200]]


def test_all_services_are_asked_by_all_kinds_of_callers() -> None:
    made = [make(seed, tls=True) for seed in SEEDS]
    assert {case.service for case in made} == set(SERVICES)
    assert {case.caller for case in made} == {*ROLES, NOBODY, STRANGER, PLAIN}
    wrong = [case for case in made if case.service == "draft" and case.caller == "verifier"]
    assert wrong
    assert not any("OK" in case.allowed for case in wrong if case.kind == "field")
    assert len({case.kind for case in made}) >= 14


def test_every_field_is_broken_and_the_rest_is_kept() -> None:
    good = gateway_pb2.ReasonRequest(question="what ?", request_id="one")
    changed: Counter[str] = Counter()
    unreadable = 0
    for seed in range(3_000):
        chance = Random(seed)
        fields = chance.choice(list(fields_of(gateway_pb2.ReasonRequest.DESCRIPTOR)))
        broken = Values(chance, lambda: b"blob").broken(fields)
        try:
            read = gateway_pb2.ReasonRequest.FromString(good.SerializeToString() + broken)
        except DecodeError:
            unreadable += 1
            continue
        if fields[0].name != "question":
            assert read.question == "what ?"
        if read != good:
            changed[".".join(field.name for field in fields)] += 1
    names = {
        ".".join(field.name for field in fields) for fields in fields_of(gateway_pb2.ReasonRequest.DESCRIPTOR)
    }
    assert set(changed) == names
    assert unreadable > 100


def test_no_bad_image_surprises_the_check() -> None:
    from services.common.errors import InvalidRequestError
    from services.gateway.images import check_image

    refused = 0
    for seed in range(1_500):
        data = images.bad(Random(seed))
        try:
            check_image(data, "image", max_bytes=16 << 20, max_pixels=16_000_000)
        except InvalidRequestError:
            refused += 1
        except UserWarning:
            # Pillow warns of an animation that is none; here, and here only, that is an error.
            continue
    assert refused > 1_000


def test_an_answer_in_pieces_is_read() -> None:
    whole = wire.frame(wire.SETTINGS, 0, 0) + wire.header_frames(
        [(b":status", b"200"), (b"grpc-status", b"3"), (b"grpc-message", b"no")], flags=wire.END_STREAM
    )
    answer = wire.Answer()
    for at in range(len(whole)):
        assert not answer.end
        answer.feed(whole[at : at + 1])
    assert (answer.end, answer.detail) == ("3", "no")


@pytest.mark.parametrize(
    ("status", "detail", "bad"),
    [
        ("INVALID_ARGUMENT", "", None),
        (HANG, "", "hangs"),
        ("open", "", "hangs"),
        ("INTERNAL", "internal error; see the service's log", "internals"),
        ("INTERNAL", GRPC_SAYS[0] + "te'", None),
        ("UNKNOWN", "", "internals"),
        ("OK", "", "unexpected"),
    ],
)
def test_what_is_bad_is_counted(status: str, detail: str, bad: str | None) -> None:
    found = Found()
    sent = Call("/x", b"")
    found.add(
        Case(7, "field", "draft", "", sent, frozenset({"INVALID_ARGUMENT", "INTERNAL"})),
        Outcome(status, detail),
    )
    assert {name: len(entries) for name, entries in found.bad.items() if entries} == ({bad: 1} if bad else {})
    if bad:
        assert found.bad[bad][0]["again"] == "dreamr fuzz --requests 1 --seed 7 --no-tls"


def test_what_a_log_should_not_have_is_seen(tmp_path: Path) -> None:
    for service in SERVICES:
        (tmp_path / f"{service}.log").write_text("")
    lines = [
        json.dumps({"event": "call refused", "level": "info"}),
        json.dumps({"event": "call failed", "level": "error", "exception": "KeyError"}),
        "Traceback (most recent call last):",
        "{forged",
        "x" * (MAX_LINE_BYTES + 1),
    ]
    (tmp_path / "draft.log").write_text("\n".join(lines))
    found = Health(Cluster(), tmp_path).logged()
    assert [any(word in line for line in found) for word in ("KeyError", "Traceback", "forged", "8,193")] == [
        True
    ] * 4
    assert len(found) == 4


async def test_a_gateway_withstands_a_few_hundred() -> None:
    cases = [case for seed in SEEDS if (case := make(seed, tls=False)).service == "gateway"][:300]
    found = Found()
    async with gateway() as running, Sender({"gateway": running.address}, None, None) as sender:
        for case in cases:
            if case.kind not in ("oversize", "bomb"):
                found.add(case, await sender.send(case))
        assert (await running.reason())[-1].finished.answer == "42"
    assert not any(found.bad.values()), found.bad
