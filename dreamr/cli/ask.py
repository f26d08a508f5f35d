"""`dreamr ask`"""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live

from dreamr.cli.live import LiveView
from dreamr.cli.running import AddressOption, PairOption, TlsOption, cluster_at, progress, run
from dreamr.client import AsyncClient
from dreamr.events import Answer, Commit, Event

_NONE = Path("-")


def _check_image(value: Path) -> Path:
    """Not by `exists`, which looks for a file of the name - whatever `allow_dash` says."""
    if value != _NONE and not value.is_file():
        raise typer.BadParameter(f"{value} is no file; - is for a question without an image")
    return value


def ask(
    image: Annotated[
        Path,
        typer.Argument(help="An image file, or - for none.", callback=_check_image),
    ],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    policy: Annotated[str, typer.Option(help="fpsr, target, specreason, lookahead or exact.")] = "fpsr",
    window: Annotated[int | None, typer.Option(help="Candidates in flight, 1 to 16.")] = None,
    alpha: Annotated[float | None, typer.Option(help="What a score is compared with, 0 to 1.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds the answer may take.")] = 120.0,
    pair: PairOption = "bundled",
    address: AddressOption = None,
    tls: TlsOption = None,
    api_key: Annotated[
        str | None, typer.Option(help="For a gateway that wants one.", envvar="DREAMR_API_KEY")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Ask a question about an image, and watch the answer come about."""
    options = {"policy": policy, "window": window, "alpha": alpha, "timeout": timeout}
    answer = run(_ask(address, pair, tls, api_key, image, question, options, quiet=as_json))
    if as_json:
        sys.stdout.write(json.dumps(to_json(answer)) + "\n")
    else:
        totals = answer.totals
        sys.stdout.write(f"{answer.answer}\n")
        progress.print(
            f"{answer.seconds:.2f} s, {totals.steps_by_draft} steps by the draft, "
            f"{totals.steps_by_target} by the target, {totals.rejected} rejected"
        )


def to_json(answer: Answer) -> dict[str, Any]:
    """The object that `--json` prints."""
    return {
        "answer": answer.answer,
        "policy": answer.policy,
        "session_id": answer.session_id,
        "steps": [
            {"index": step.index, "text": step.text, "author": step.author, "score": step.score}
            for step in answer.steps
        ],
        "totals": asdict(answer.totals),
        "seconds": answer.seconds,
        "degraded": list(answer.degraded),
    }


async def _ask(
    address: str | None,
    pair: str,
    tls: Path | None,
    api_key: str | None,
    image: Path,
    question: str,
    options: dict[str, Any],
    *,
    quiet: bool,
) -> Answer:
    async with (
        cluster_at(address, pair, tls=tls) as target,
        AsyncClient(target.address, tls=target.tls, api_key=api_key) as client,
    ):
        events = client.reason(
            question, images=[] if image == _NONE else [image], activity=not quiet, **options
        )
        seen: list[Event] = []
        async with aclosing(events) as happened, _shown(LiveView(), quiet=quiet) as show:
            async for event in happened:
                show(event)
                seen.append(event)
        return Answer.of(seen)


@asynccontextmanager
async def _shown(view: LiveView, *, quiet: bool) -> AsyncIterator[Any]:
    """Yields what to tell events to: a live view on a terminal, plain lines elsewhere, or nothing."""
    if quiet:
        yield lambda event: None
    elif progress.is_terminal:
        with Live(view, console=progress, refresh_per_second=20):
            yield view.take
    else:
        yield _say


def _say(event: Event) -> None:
    if isinstance(event, Commit):
        score = "" if event.score is None else f" ({event.score:.2f})"
        progress.print(f"{event.index} {event.author}{score}: {event.text}")
