"""Our own endpoints over real HTTP: sessions by event, what is kept of them, and the page's files."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc
import httpx2
import pytest

from dreamr.events import from_proto
from dreamr.keys import KeyFile
from dreamr.trace import trace
from dreamr.v1 import gateway_pb2
from services.gateway.callers import Caller
from services.gateway.images import MAX_IMAGES_BYTES
from services.gateway.plan import MAX_WINDOW
from services.gateway.policy import POLICIES
from services.gateway.settings import GatewaySettings
from services.gateway.timelines import MAX_QUESTION, Timelines
from tests.unit.asking import data_uri
from tests.unit.fake_services import STEPS, FakeServices, busy, idle
from tests.unit.running_gateway import Gateway, gateway, request

STATIC = Path("services/gateway/http/static")
ASK, SESSIONS = "/v1/dreamr/reason", "/v1/dreamr/sessions"
IMAGE = data_uri().partition(",")[2]


@asynccontextmanager
async def front(
    parts: FakeServices | None = None, key: str = "", **settings: Any
) -> AsyncIterator[tuple[httpx2.AsyncClient, Gateway]]:
    async with (
        gateway(parts, http="127.0.0.1:0", **settings) as running,
        httpx2.AsyncClient(base_url=running.url, timeout=20, headers=bearing(key)) as client,
    ):
        yield client, running


def bearing(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def asked(**changes: Any) -> dict[str, Any]:
    return {"question": "what ?", "images": [{"data": IMAGE}], "options": {"activity": True}, **changes}


async def told(client: httpx2.AsyncClient, **changes: Any) -> list[dict[str, Any]]:
    response = await client.post(ASK, json=asked(**changes))
    assert response.status_code == 200, response.text
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


async def sessions(client: httpx2.AsyncClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await client.get(SESSIONS)).json()["sessions"]
    return found


def error_of(response: httpx2.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


async def test_every_event_is_told_in_the_protos_json() -> None:
    async with front() as (client, _):
        events = await told(client)
        assert list(events[0]) == ["started"]
        assert events[0]["started"]["policy"] == "fpsr"
        assert [one["commit"]["step"]["text"] for one in events if "commit" in one] == list(STEPS)
        verdicts = [one["activity"]["verdict"] for one in events if "verdict" in one.get("activity", {})]
        assert {verdict["score"] for verdict in verdicts} == {0.9}
        assert events[-1]["finished"]["answer"] == "42"

        quiet = await told(client, options={"policy": "target"})
        assert not any("activity" in one for one in quiet)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ([], "body"),
        ({"questions": "x"}, "questions"),
        ({"question": 3}, "question"),
        ({"options": {"policy": []}}, "options.policy"),
        ({"options": {"window": 1 << 40}}, "options.window"),
        ({"options": {"alpha": "x"}}, "options.alpha"),
        ({"options": {"sampling": {"sede": 1}}}, "options.sampling.sede"),
        ({"options": 3}, "options"),
        ({"images": [{"data": "a"}]}, "images.data"),
        ({"images": [{"data": "%"}]}, "images[0]"),
        ({"images": [{}] * 2000}, "images"),
        ({"steps": [{}] * 2000}, "steps"),
        ({"question": " "}, "question"),
        ({"options": {"window": 17}}, "options.window"),
        ({"options": {"policy": "best"}}, "options.policy"),
        ({"request_id": "x" * 129}, "request_id"),
    ],
    ids=range(16),
)
async def test_bad_requests_are_refused_by_the_fields_name(body: Any, param: str) -> None:
    async with front() as (client, running):
        response = await client.post(ASK, json=asked(**body) if isinstance(body, dict) else body)
        error = error_of(response, 400)
        assert error["param"] == param
        assert error["message"].startswith(f"{param}: ")
        assert running.parts.calls == 0


async def test_what_holds_for_chats_holds_here() -> None:
    async with front(busy()) as (client, running):
        error_of(await client.get(ASK), 405)
        error_of(await client.post(ASK, content=b"{}", headers={"content-type": "text/plain"}), 415)
        error_of(await client.post(ASK, json=asked(), headers={"dreamr-timeout": "soon"}), 400)
        # A stream that has begun tells of its deadline.
        async with idle(running.parts):
            response = await client.post(ASK, json=asked(), headers={"dreamr-timeout": "0.2"})
        last = json.loads(response.text.strip().splitlines()[-1].removeprefix("data: "))
        assert last["error"]["code"] == "timeout"


async def test_who_hangs_up_has_it_cancelled() -> None:
    parts = busy()
    async with front(parts) as (client, _):
        async with idle(parts), client.stream("POST", ASK, json=asked()) as response:
            await anext(response.aiter_lines())
        async with asyncio.timeout(5):
            while (await sessions(client))[0]["status"] == "running":  # noqa: ASYNC110 - the other side of a socket
                await asyncio.sleep(0.01)
        (found,) = await sessions(client)
        assert (found["status"], found["why"]) == ("cancelled", "")


async def test_the_last_sessions_are_kept_whoever_asked_them() -> None:
    async with front() as (client, running):
        told_over_http = await told(client)
        over_grpc = await running.reason(request(question="how ?"))
        assert not any(response.HasField("activity") for response in over_grpc)
        newest, oldest = await sessions(client)
        assert (newest["question"], oldest["question"]) == ("how ?", "what ?")
        assert (newest["status"], newest["answer"], newest["steps"]) == ("finished", "42", len(STEPS))
        # With what its client has not asked for.
        whole = (await client.get(f"{SESSIONS}/{newest['id']}")).json()
        assert any("activity" in event for event in whole["events"])
        assert (await client.get(f"{SESSIONS}/{oldest['id']}")).json()["events"] == told_over_http
        text = json.dumps(whole)
        assert IMAGE[:40] not in text
        error_of(await client.get(f"{SESSIONS}/none"), 404)


async def test_one_that_runs_is_there_already() -> None:
    async with front(busy()) as (client, _), client.stream("POST", ASK, json=asked()) as response:
        await anext(response.aiter_lines())
        (found,) = await sessions(client)
        assert (found["status"], found["answer"]) == ("running", None)


async def test_a_failed_one_says_why() -> None:
    parts = FakeServices(failures={"Generate": [grpc.StatusCode.INVALID_ARGUMENT] * 9})
    async with front(parts) as (client, _):
        await client.post(ASK, json=asked(options={"policy": "target"}))
        (found,) = await sessions(client)
        assert found["status"] == "failed"
        assert "says no" in found["why"]


async def test_nobody_sees_anothers(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        mine, other = keys.add("ci"), keys.add("ops")
    async with front(key=mine, keys=path) as (client, _):
        await told(client)
        (found,) = await sessions(client)
        for where in (SESSIONS, f"{SESSIONS}/{found['id']}", f"{SESSIONS}/{found['id']}/trace"):
            assert (await client.get(where)).status_code == 200
            error_of(await client.get(where, headers=bearing("none")), 401)
        assert (await client.get(SESSIONS, headers=bearing(other))).json()["sessions"] == []
        error_of(await client.get(f"{SESSIONS}/{found['id']}", headers=bearing(other)), 404)
        error_of(await client.get(f"{SESSIONS}/{found['id']}/trace", headers=bearing(other)), 404)
        error_of(await client.post(ASK, json=asked(), headers=bearing("none")), 401)
        # The page itself has no secrets, and asks for the key.
        assert (await client.get("/", headers=bearing("none"))).status_code == 200


async def test_none_are_kept_where_none_are_wanted() -> None:
    async with front(recent_sessions=0) as (client, _):
        (started, *_) = await told(client)
        assert (await client.get(SESSIONS)).json() == {"most": 0, "sessions": []}
        error_of(await client.get(f"{SESSIONS}/{started['started']['session_id']}"), 404)


def test_without_keys_none_are_kept_where_others_could_see_them(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        keys.add("ci")
    for http, with_keys, asked_for, most in (
        ("", True, 5, 0),
        ("127.0.0.1:0", False, None, 32),
        ("[::1]:0", False, None, 32),
        ("localhost:0", False, None, 32),
        ("0.0.0.0:0", False, None, 0),
        ("gateway:80", False, None, 0),
        ("0.0.0.0:0", True, None, 32),
        ("0.0.0.0:0", False, 5, 5),
        ("127.0.0.1:0", False, 0, 0),
    ):
        settings = GatewaySettings(http=http, keys=path if with_keys else None, recent_sessions=asked_for)
        assert settings.timelines == most, http


def filled(timelines: Timelines, session_id: str, sizes: Sequence[int] = (10,)) -> None:
    with timelines.session(session_id, "q" * 1000) as note:
        for index, size in enumerate(sizes):
            commit = gateway_pb2.Commit(index=index, step={"text": "x" * size})
            note(gateway_pb2.ReasonResponse(commit=commit))
        note(gateway_pb2.ReasonResponse(finished={"answer": "42"}))


def of(timelines: Timelines, caller: Caller) -> list[str]:
    return [timeline.session_id.removeprefix(caller.tag) for timeline in timelines.of(caller)]


async def test_they_are_bounded_in_number_bytes_and_time() -> None:
    nobody = Caller()
    timelines = Timelines(3, 80_000, 0.05, lambda session_id: nobody)
    for name in "abcd":
        filled(timelines, name)
    assert of(timelines, nobody) == ["d", "c", "b"]
    filled(timelines, "c")
    assert of(timelines, nobody) == ["c", "d", "b"]
    # One that is too large is cut, but for its end; the others stay.
    filled(timelines, "e", sizes=(*[1000] * 100, 10))
    large = timelines.find(nobody, "e")
    assert large
    assert (large.cut, large.steps, len(large.question)) == (True, 101, MAX_QUESTION)
    assert large.size < 80_000 / 8 + 1000
    # Nothing behind the first that was left out, though it would have had room.
    *kept, end = [gateway_pb2.ReasonResponse.FromString(event) for event in large.events]
    assert {len(response.commit.step.text) for response in kept} == {1000}
    assert end.finished.answer == "42"
    async with asyncio.timeout(5):
        while of(timelines, nobody):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert timelines._size == 0


async def test_what_made_room_is_held_by_nothing() -> None:
    nobody = Caller()
    timelines = Timelines(1, 1 << 20, 3600, lambda session_id: nobody)
    filled(timelines, "a")
    over = timelines.find(nobody, "a")
    with timelines.session("b", "how ?") as note:
        running = timelines.find(nobody, "b")
        note(gateway_pb2.ReasonResponse(started={"session_id": "b"}))
        filled(timelines, "c")
        note(gateway_pb2.ReasonResponse(commit={"index": 0}))
    assert of(timelines, nobody) == ["c"]
    # Not by a session that goes on, nor by the timer that would have dropped it in an hour.
    assert over
    assert over.ends
    assert over.ends.cancelled()
    assert running
    assert running.ends is None
    assert over.events == running.events == []


async def test_one_that_broke_is_not_called_cancelled() -> None:
    nobody = Caller()
    timelines = Timelines(4, 1 << 20, 60, lambda session_id: nobody)
    with pytest.raises(ZeroDivisionError), timelines.session("a", "what ?"):
        _ = 1 / 0
    (found,) = timelines.of(nobody)
    assert (found.status, found.why) == ("failed", "internal error")


async def test_who_has_most_makes_room() -> None:
    callers = {name: Caller(name) for name in ("ci", "ops")}
    timelines = Timelines(
        4, 1 << 20, 60, lambda session_id: next(one for one in callers.values() if one.owns(session_id))
    )
    # Not even where it has fewer bytes than another's only one.
    filled(timelines, f"{callers['ops'].tag}a", sizes=[50_000])
    for index in range(20):
        filled(timelines, f"{callers['ci'].tag}{index}")
    assert of(timelines, callers["ops"]) == ["a"]
    assert of(timelines, callers["ci"]) == ["19", "18", "17"]


async def test_a_trace_is_what_perfetto_reads() -> None:
    async with front(FakeServices(target_delay=0.05)) as (client, running):
        responses = await running.reason(request(gateway_pb2.ReasonOptions(activity=True)))
        (found,) = await sessions(client)
        response = await client.get(f"{SESSIONS}/{found['id']}/trace")
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["content-disposition"].endswith(f'"dreamr-{found["id"]}.json"')
        got = response.json()
        events = [event for one in responses if (event := from_proto(one))]
        assert got == json.loads(json.dumps(trace(events, f"dreamr fpsr {found['id']}")))
        assert {event["ph"] for event in got["traceEvents"]} == {"M", "X", "i"}
        work = [event for event in got["traceEvents"] if event["ph"] == "X"]
        assert all(isinstance(event[key], int) for event in work for key in ("ts", "dur", "pid", "tid"))
        threads = {one["tid"] for one in got["traceEvents"] if one["name"] == "thread_name"}
        assert {event["tid"] for event in work} == threads
        # On one thread nothing overlaps.
        for thread in threads:
            spans = sorted((one["ts"], one["ts"] + one["dur"]) for one in work if one["tid"] == thread)
            assert all(before[1] <= after[0] for before, after in pairwise(spans))
        verdicts = [event for event in work if event["cat"] == "verdict,accepted"]
        assert {event["args"]["verdict"]["score"] for event in verdicts} == {0.9}
        names = [event["name"] for event in got["traceEvents"] if event["ph"] == "i"]
        assert names == [f"commit {index} by draft" for index in range(len(STEPS))] + ["finished"]


async def test_the_page_asks_nothing_of_anybody_else() -> None:
    async with front() as (client, _):
        page = await client.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"].startswith("default-src 'self';")
        assert "unsafe" not in page.headers["content-security-policy"]
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! type=\"module\" src=)", page.text)
        parts = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text))
        assert {"/static/page.js", "/static/page.css", "/static/icon.svg"} == parts
        for part in parts:
            found = await client.get(part)
            assert found.status_code == 200
            assert found.headers["content-security-policy"] == page.headers["content-security-policy"]
            assert "http://" not in found.text.replace("http://www.w3.org/", "")
            assert "https://" not in found.text
            for module in re.findall(r'from "\.(/[a-z]+\.js)"', found.text):
                assert (await client.get(f"/static{module}")).status_code == 200
        assert (await client.head("/")).status_code == 200
        error_of(await client.get("/static/../settings.py"), 404)
        error_of(await client.get("/", headers={"host": "elsewhere.example"}), 421)


def test_the_page_offers_what_there_is() -> None:
    page = (STATIC / "index.html").read_text()
    select = re.search(r'<select id="policy".*?</select>', page, re.DOTALL)
    assert select
    assert set(re.findall(r"<option(?: selected)?>(\w+)", select[0])) == set(POLICIES)
    assert f'max="{MAX_WINDOW}"' in page
    assert f"MOST_BYTES = {MAX_IMAGES_BYTES};" in (STATIC / "images.js").read_text()
