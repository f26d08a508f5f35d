"""The timeline page in a real browser, against a real cluster.

With `DREAMR_SCREENSHOTS` set to a folder, the README's pictures are written there.
"""

import asyncio
import io
import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from bench.questions import held_out
from dreamr.cluster.cluster import Cluster
from dreamr.keys import KeyFile

pytest.importorskip("playwright", reason="`make browser-test` installs it")
from playwright.async_api import Browser, FileChooser, Page, Request, async_playwright, expect

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

FOLDER = os.environ.get("DREAMR_SCREENSHOTS", "")
SCHEMES: tuple[Any, ...] = ("light", "dark")
MAX_PICTURE_BYTES = 150_000
(ASKED, OTHER) = held_out(2, seed=31)
# A machine that is busy with other things is slow, and nothing is wrong with the page.
expect.set_options(timeout=60_000)
AXE = Path(".cache/axe/node_modules/axe-core/axe.min.js")
# What the page makes of a session's events; microseconds.
SPANS = """async (id) => {
    const {Session} = await import("/static/session.js");
    const session = new Session();
    const found = await (await fetch(`/v1/dreamr/sessions/${id}`)).json();
    found.events.forEach((event) => session.take(event));
    const named = (span) => `${span.work === "candidate" ? "draft" : span.work} ${span.index}`;
    const micros = (seconds) => Math.round(seconds * 1e6);
    return session.spans.map((span) => [named(span), micros(span.start), micros(span.end)]);
}"""

# Pastes or drops a file.
GIVE = """([kind, name, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name, {type}));
    const init = {bubbles: true, cancelable: true};
    const event = kind === "paste"
        ? new ClipboardEvent("paste", {...init, clipboardData: data})
        : new DragEvent("drop", {...init, dataTransfer: data});
    document.getElementById("question").dispatchEvent(event);
}"""
# A draft's candidate for position 1 is thrown away with the rejected one before it, and another is accepted.
REDRAFTED = """async () => {
    const {Session} = await import("/static/session.js");
    const session = new Session();
    const verdict = (accept) => ({accept, score: accept ? 0.9 : 0.1, alpha: 0.7, mass: 1});
    const act = (call, part, phase, at, more = {}) =>
        session.take({activity: {call, part: `PART_${part}`, phase: `PHASE_${phase}`, at, ...more}});
    act(1, "DRAFT", "STARTED", 0);
    act(1, "DRAFT", "STEP", 1, {text: "a"});
    act(1, "DRAFT", "STEP", 2, {index: 1, text: "b"});
    act(2, "VERDICT", "STARTED", 1);
    act(2, "VERDICT", "DONE", 3, {verdict: verdict(false)});
    act(1, "DRAFT", "CANCELLED", 3);
    session.take({commit: {step: {text: "c"}, author: "AUTHOR_TARGET", timings: {committed: 4}}});
    act(3, "DRAFT", "STARTED", 4, {index: 1});
    act(3, "DRAFT", "STEP", 5, {index: 1, text: "b"});
    act(4, "VERDICT", "STARTED", 5, {index: 1});
    act(4, "VERDICT", "DONE", 6, {index: 1, verdict: verdict(true)});
    session.take({commit: {index: 1, step: {text: "b"}, author: "AUTHOR_DRAFT", timings: {committed: 6}}});
    session.take({finished: {seconds: 7}});
    const drafted = session.spans.filter(({lane}) => lane === "draft");
    return drafted.map(({index, start, outcome}) => [index, start, outcome]);
}"""
# A session of 200 steps: a real one's events, again and again.
LONG = """async (id) => {
    const {Run} = await import("/static/run.js");
    const found = await (await fetch(`/v1/dreamr/sessions/${id}`)).json();
    const run = new Run("fpsr");
    document.getElementById("runs").replaceChildren(run.element);
    const events = found.events.filter(({started, finished}) => !started && !finished);
    const steps = events.filter(({commit}) => commit).length;
    for (let turn = 0; turn * steps < 200; turn++) {
        const place = (index = 0) => index + turn * steps, later = (at) => at + turn * found.seconds;
        for (const event of events) {
            const {activity, commit} = structuredClone(event);
            if (activity) {
                const {call, index, at} = activity;
                Object.assign(activity, {call: call + turn * 1000, index: place(index), at: later(at)});
            } else {
                commit.index = place(commit.index);
                commit.timings.committed = later(commit.timings.committed);
            }
            run.take({activity, commit}, false);
        }
        run.draw(run.now, run.width);
    }
    run.end();
    const {frame, picture, lanes, table, steps: list} = run.parts;
    frame.scrollTo(frame.scrollWidth, 0);
    return {
        spans: run.session.spans.length, rows: table.rows.length, last: list.lastChild.value,
        frame: frame.clientWidth, picture: picture.clientWidth,
        body: document.body.scrollWidth - document.body.clientWidth,
        names: lanes.getBoundingClientRect().left - frame.getBoundingClientRect().left,
        letters: [...picture.querySelectorAll("g > text")].length,
    };
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    where = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if where is None:
        pytest.fail("no Chromium here; on Debian: apt-get install chromium")
    async with async_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        found = await playwright.chromium.launch(executable_path=where, args=flags)
        try:
            yield found
        finally:
            await found.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def emulated() -> AsyncIterator[Cluster]:
    """A pair that takes a GPU pair's time, some ten seconds a session, however busy this machine is."""
    async with Cluster(http="127.0.0.1:0", pair="emulated:qwen3vl-32b-2b") as running:
        yield running


class Visit:
    """A page that notes what it asked for, and what it complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.asked: list[str] = []
        self.complaints: list[str] = []
        page.on("request", self._request)
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _request(self, request: Request) -> None:
        self.asked.append(request.url)

    async def ask(self, text: str, image: bytes) -> None:
        await self.page.get_by_label("Question", exact=True).fill(text)
        await self.page.get_by_label("Images", exact=True).set_input_files(
            {"name": "grid.png", "mimeType": "image/png", "buffer": image}
        )
        await self.page.get_by_role("button", name="Ask", exact=True).click()

    async def answer(self, place: int = 0) -> str:
        """The answer of a run, once it is there."""
        run = self.page.get_by_role("article").nth(place)
        await expect(run.locator(".summary")).to_contain_text("finished", timeout=120_000)
        return str(await run.locator(".answer").inner_text())

    def check(self) -> None:
        """Nothing went elsewhere, and nothing went wrong."""
        assert self.asked
        assert [url for url in self.asked if not url.startswith((self.url, f"blob:{self.url}"))] == []
        assert self.complaints == []

    async def sessions(self) -> list[dict[str, Any]]:
        """What the gateway keeps, the newest first."""
        found = await self.page.evaluate("fetch('/v1/dreamr/sessions').then((found) => found.json())")
        return list(found["sessions"])

    async def ended(self, place: int = 0) -> str:
        """What became of a session, once it is over."""
        async with asyncio.timeout(60):
            while (status := (await self.sessions())[place]["status"]) == "running":  # noqa: ASYNC110 - elsewhere
                await asyncio.sleep(0.1)
        return str(status)


@asynccontextmanager
async def visiting(browser: Browser, cluster: Cluster) -> AsyncIterator[Visit]:
    url = f"http://{cluster.http[0]}"
    async with await browser.new_context(viewport={"width": 1200, "height": 900}) as context:
        page = await context.new_page()
        found = Visit(page, url)
        await page.goto(url)
        yield found
        found.check()


@pytest_asyncio.fixture(loop_scope="session")
async def visit(browser: Browser, cluster: Cluster) -> AsyncIterator[Visit]:
    async with visiting(browser, cluster) as found:
        yield found


@pytest_asyncio.fixture(loop_scope="session")
async def slow(browser: Browser, emulated: Cluster) -> AsyncIterator[Visit]:
    async with visiting(browser, emulated) as found:
        yield found


async def test_steps_commit_while_one_watches(visit: Visit) -> None:
    page = visit.page
    seen: list[str] = []
    await page.expose_function("noted", lambda text: seen.append(str(text)))
    await page.evaluate(
        "new MutationObserver(() => noted(document.getElementById('status').textContent))"
        ".observe(document.getElementById('status'), {childList: true})"
    )
    await visit.ask(ASKED.text, ASKED.image)
    assert await visit.answer() == ASKED.answer
    run = page.get_by_role("article")
    steps = await run.get_by_role("listitem").all_inner_texts()
    assert [text for text in steps if "step 1 :" in text]
    assert all(text.startswith(("draft", "target")) for text in steps)
    # Told to those who do not see, as it happens.
    assert [text for text in seen if text.startswith("Step 0 committed")]
    for lane in ("draft", "target", "verifier"):
        await expect(run.locator(".lanes").get_by_text(lane, exact=True)).to_be_visible()
    assert await run.locator(".bar.accepted").count() > 2
    await expect(run.locator(".bar.running")).to_have_count(0)
    letters = await run.locator(".picture text").all_text_contents()
    assert [text for text in letters if " A" in text]
    # The same in words.
    await run.get_by_text("The picture as a table").click()
    rows = await run.get_by_role("row").all_inner_texts()
    assert {row.split("\t")[0] for row in rows[1:]} == {"draft", "target", "verifier"}
    assert len(rows) - 1 == await run.locator(".picture g").count()


async def test_two_policies_side_by_side(visit: Visit) -> None:
    await visit.page.get_by_label("Compare with").select_option("target")
    await visit.ask(ASKED.text, ASKED.image)
    assert await visit.answer(0) == ASKED.answer
    assert await visit.answer(1) == ASKED.answer
    ratio = visit.page.locator("#ratio")
    await expect(ratio).to_contain_text("times as fast as target")
    titles = await visit.page.get_by_role("heading", level=3).all_inner_texts()
    assert [title.split(",")[0] for title in titles] == ["Policy fpsr", "Policy target"]
    # At the same scale: the same axis.
    axes = [
        await run.locator(".axis").all_text_contents()
        for run in await visit.page.get_by_role("article").all()
    ]
    assert axes[0] == axes[1]


async def test_with_the_keyboard_alone(visit: Visit) -> None:
    page, press = visit.page, visit.page.keyboard.press
    # Asked for long before it is needed: nothing says when the browser has heard of that.
    choosers = asyncio.Queue[FileChooser]()
    page.on("filechooser", choosers.put_nowait)
    await press("Tab")
    await expect(page.get_by_label("Question", exact=True)).to_be_focused()
    await page.keyboard.type(ASKED.text)
    await press("Tab")
    images = page.get_by_label("Images", exact=True)
    await expect(images).to_be_focused()
    await press("Space")
    chooser = await asyncio.wait_for(choosers.get(), 60)
    await chooser.set_files({"name": "grid.png", "mimeType": "image/png", "buffer": ASKED.image})
    await press("Tab")
    await expect(page.get_by_role("button", name="Remove grid.png")).to_be_focused()
    await press("Tab")
    await page.keyboard.type("target")
    await expect(page.get_by_label("Policy", exact=True)).to_have_value("target")
    for _ in range(4):
        await press("Tab")
    await expect(page.get_by_role("button", name="Ask", exact=True)).to_be_focused()
    await press("Enter")
    assert await visit.answer() == ASKED.answer
    await expect(page.get_by_role("heading", name="Policy target")).to_be_visible()
    # Back to what was asked before.
    opening = page.get_by_role("button", name="Open the session of").first
    await opening.focus()
    await press("Enter")
    await expect(page.get_by_role("heading", name="Timeline")).to_be_focused()


async def test_images_are_pasted_and_dropped(visit: Visit) -> None:
    # Dropped beside the place for it, where a browser would open the file instead of the page.
    for kind in ("paste", "drop"):
        await visit.page.evaluate(GIVE, [kind, f"{kind}.png", "image/png", list(ASKED.image)])
        await expect(visit.page.get_by_role("img", name=f"{kind}.png")).to_be_visible()
    await visit.page.evaluate(GIVE, ["drop", "notes.txt", "text/plain", [65]])
    await expect(visit.page.locator("#status")).to_have_text("notes.txt is no image")
    await visit.page.get_by_role("button", name="Remove drop.png").click()
    await visit.page.get_by_label("Question", exact=True).fill(ASKED.text)
    await visit.page.keyboard.press("Control+Enter")
    assert await visit.answer() == ASKED.answer


async def test_large_images_are_shown_small_and_refused_in_words(visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    told, ask = page.get_by_role("alert"), page.get_by_role("button", name="Ask", exact=True)
    chosen = page.get_by_label("Images", exact=True)
    await page.get_by_label("Question", exact=True).fill("what ?")
    large = tmp_path / "large.bmp"
    Image.new("RGB", (3000, 2500)).save(large)
    await chosen.set_input_files(large)
    thumb = page.get_by_role("img", name="large.bmp")
    await expect(thumb).to_have_attribute("width", "256")
    await ask.click()
    await expect(told).to_have_text("images[0]: has 22,500,054 bytes, more than 16,777,216")
    await chosen.set_input_files(large)
    await ask.click()
    await expect(told).to_have_text("images: 45,000,108 bytes in all, more than 41,943,040")
    await expect(page.get_by_role("article").locator(".summary")).to_contain_text("failed")
    assert [text for text in visit.complaints if "400" not in text] == []
    visit.complaints.clear()


async def test_a_trace_is_exported(visit: Visit, tmp_path: Path) -> None:
    await visit.ask(OTHER.text, OTHER.image)
    await visit.answer()
    async with visit.page.expect_download() as download:
        await visit.page.get_by_role("link", name="Trace for Perfetto of policy fpsr").click()
    await (await download.value).save_as(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    work = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["name"].split()[0] for event in work} >= {"draft", "verdict", "answer"}
    # The page works out the same.
    (title,) = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"]
    shown = await visit.page.evaluate(SPANS, title.split()[-1])
    written = [[event["name"], event["ts"], event["ts"] + event["dur"]] for event in work]
    assert sorted(shown) == sorted(written)


async def test_what_is_refused_is_told(visit: Visit) -> None:
    await visit.page.get_by_label("Question", exact=True).fill("what ?")
    await visit.page.get_by_role("button", name="Ask", exact=True).click()
    await expect(visit.page.get_by_role("alert")).to_contain_text("images: at least 1 needed")
    assert [text for text in visit.complaints if "400" in text]
    visit.complaints.clear()


async def test_stop_stops(slow: Visit) -> None:
    page, run = slow.page, slow.page.get_by_role("article")
    await slow.ask(ASKED.text, ASKED.image)
    await expect(run.locator(".bar.running").first).to_be_visible()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator("#status")).to_have_text("Stopped.")
    await expect(run.locator(".summary")).to_contain_text("stopped")
    await expect(page.get_by_role("button", name="Ask", exact=True)).to_be_focused()
    assert await slow.ended() == "cancelled"


async def test_what_is_shown_next_ends_what_was_shown(slow: Visit) -> None:
    page, run = slow.page, slow.page.get_by_role("article")
    await slow.ask(ASKED.text, ASKED.image)
    await expect(run.locator(".bar.running").first).to_be_visible()
    # One who looks on sees it run, and nothing of it is called cancelled for that.
    async with await page.context.browser.new_context() as context:
        other = await context.new_page()
        await other.goto(slow.url)
        await other.get_by_role("button", name="Open the session of").first.click()
        await expect(other.locator(".summary")).to_contain_text("runs; open it again")
        assert await other.locator(".bar.running").count() > 0
    # The same question anew.
    await page.get_by_label("Policy", exact=True).select_option("target")
    await page.get_by_role("button", name="Ask", exact=True).click()
    await expect(page.get_by_role("heading", name="Policy target")).to_be_visible()
    await expect(run.locator(".bar.running").first).to_be_visible()
    assert await slow.ended(1) == "cancelled"
    newest, before = (await slow.sessions())[:2]
    assert (newest["policy"], newest["status"]) == ("target", "running")
    assert before["policy"] == "fpsr"
    # What was asked before.
    await page.get_by_role("button", name="Refresh").click()
    await page.get_by_role("button", name="Open the session of").nth(1).click()
    await expect(page.get_by_role("heading", name="Timeline")).to_be_focused()
    await expect(run.locator(".summary")).to_contain_text("cancelled")
    await expect(page.get_by_role("heading", name="Policy fpsr")).to_be_visible()
    await expect(page.locator("#status")).to_contain_text("Session of")
    await expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    assert await slow.ended() == "cancelled"
    await expect(run).to_have_count(1)
    await expect(page.locator("#status")).to_contain_text("Session of")
    await expect(page.locator("#problem")).to_be_empty()


async def test_what_was_thrown_away_is_not_called_accepted(visit: Visit) -> None:
    shown = await visit.page.evaluate(REDRAFTED)
    assert shown == [
        [0, 0, "rejected"],
        [1, 1, "cancelled"],
        [2, 2, "cancelled"],
        [1, 4, "accepted"],
        [2, 5, "cancelled"],
    ]


async def test_two_hundred_steps_can_be_read(visit: Visit) -> None:
    await visit.ask(ASKED.text, ASKED.image)
    await visit.answer()
    (found, *_) = await visit.sessions()
    long = await visit.page.evaluate(LONG, found["id"])
    assert long["last"] >= 199
    assert long["rows"] == long["spans"] > 400
    # The picture is wider than its frame, whose lanes keep their names; the page is not.
    assert long["picture"] > long["frame"] > 0
    assert (long["names"], long["body"]) == (0, 0)
    assert long["letters"] > 100


@pytest.mark.parametrize("scheme", SCHEMES)
async def test_both_schemes_can_be_read_by_all(browser: Browser, cluster: Cluster, scheme: Any) -> None:
    url = f"http://{cluster.http[0]}"
    async with await browser.new_context(
        viewport={"width": 1100, "height": 900},
        color_scheme=scheme,
        bypass_csp=True,  # for axe alone, which is put into the page
    ) as context:
        page = await context.new_page()
        visit = Visit(page, url)
        await page.goto(url)
        await page.get_by_label("Compare with").select_option("target")
        await visit.ask(ASKED.text, ASKED.image)
        await visit.answer(1)
        await expect(page.locator("#ratio")).to_contain_text("times as fast")
        ground = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 128
        assert dark == (scheme == "dark")
        for table in await page.get_by_text("The picture as a table").all():
            await table.click()
        await page.add_script_tag(path=AXE)
        found = await page.evaluate("axe.run()")
        wrong = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
        assert wrong == []
        assert len(found["passes"]) > 20
        visit.check()


@pytest.mark.skipif(not FOLDER, reason="`make screenshots` sets DREAMR_SCREENSHOTS")
async def test_pictures(slow: Visit) -> None:
    """Of a pair that takes a GPU pair's time, so that they tell nothing of how busy this machine is."""
    page = slow.page
    await page.set_viewport_size({"width": 1100, "height": 900})
    await page.get_by_label("Compare with").select_option("target")
    await slow.ask(ASKED.text, ASKED.image)
    await expect(page.locator("#ratio")).to_contain_text("times as fast", timeout=120_000)
    below = await page.locator("#recent-title").bounding_box()
    assert below
    clip = {"x": 0, "y": 0, "width": 1100, "height": min(1400, below["y"] - 12)}
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme)
        shot = await page.screenshot(full_page=True, clip=clip)
        path = Path(FOLDER) / f"page-{scheme}.png"
        with Image.open(io.BytesIO(shot)) as image:
            # With 256 colours: small enough for the README.
            image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        assert path.stat().st_size < MAX_PICTURE_BYTES


async def test_a_key_is_asked_for_and_kept_nowhere(
    browser: Browser, cluster: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "keys.json"
    with KeyFile.changed(path) as keys:
        key = keys.add("ci")
    running = {name: cluster.addresses[name] for name in ("target", "verifier")}
    async with (
        Cluster(http="127.0.0.1:0", running=running, settings={"DREAMR_GATEWAY_KEYS": str(path)}) as locked,
        await browser.new_context() as context,
    ):
        page = await context.new_page()
        visit = Visit(page, f"http://{locked.http[0]}")
        await page.goto(visit.url)
        field = page.get_by_label("API key")
        await expect(field).to_be_visible()
        await visit.ask(ASKED.text, ASKED.image)
        await expect(page.get_by_role("alert")).to_contain_text("an API key is needed")
        await expect(field).to_be_focused()
        await field.fill(key)
        await page.get_by_role("button", name="Ask", exact=True).click()
        assert await visit.answer() == ASKED.answer
        async with page.expect_download() as download:
            await page.get_by_role("link", name="Trace for Perfetto of policy fpsr").click()
        await (await download.value).save_as(tmp_path / "trace.json")
        assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        await expect(page.get_by_role("button", name="Open the session of")).to_have_count(1)
        # Who shows another key sees nothing of what the first one was shown.
        await field.fill("dreamr_none")
        await field.press("Tab")
        await expect(page.locator("#recent-hint")).to_have_text("the API key is not known")
        await expect(page.get_by_role("button", name="Open the session of")).to_have_count(0)
        kept = await page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]
        assert [text for text in visit.complaints if "401" not in text] == []
        visit.complaints.clear()
        visit.check()
