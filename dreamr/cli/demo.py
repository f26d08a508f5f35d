"""`dreamr demo`: what `make demo` shows."""

import sys
from contextlib import aclosing
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from dreamr.cli.live import commit_row
from dreamr.cli.running import AddressOption, cluster_at, progress, run
from dreamr.client import AsyncClient
from dreamr.events import Answer, Event

if TYPE_CHECKING:
    from bench.questions import Question

POLICIES = ("target", "fpsr")


def demo(
    questions: Annotated[int, typer.Option(min=1, help="How many held-out questions.")] = 6,
    seed: Annotated[int, typer.Option(help="Which ones.")] = 3,
    timeline: Annotated[
        Path | None, typer.Option(help="Draw the last question's FPSR run to this file (svg or png).")
    ] = None,
    address: AddressOption = None,
) -> None:
    """Answer held-out image questions with the target alone and with FPSR, side by side."""
    run(_demo(address, questions, seed, timeline))


async def _demo(address: str | None, count: int, seed: int, timeline: Path | None) -> None:
    from bench.questions import cold, held_out

    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 110)
    asked = held_out(count, seed)
    found: dict[str, list[Answer]] = {policy: [] for policy in POLICIES}
    async with cluster_at(address) as target, AsyncClient(target.address) as client:
        with progress.status("warming up"):
            for policy in POLICIES:
                await client.ask(asked[0].text, images=[asked[0].image], policy=policy)
        for number, question in enumerate(asked, 1):
            console.print(f"\n[bold]{number}. {question.text}[/bold]")
            for policy in POLICIES:
                last = timeline if policy == "fpsr" and number == count else None
                # Neither policy may find the other's work in a cache.
                image = cold(question.image, f"{number} {policy}")
                found[policy].append(await _answer(client, image, question.text, policy, last))
            _show(console, [found[policy][-1] for policy in POLICIES], question)
    _summarise(console, found, asked)


async def _answer(client: AsyncClient, image: bytes, text: str, policy: str, timeline: Path | None) -> Answer:
    stream = client.reason(text, images=[image], policy=policy, activity=timeline is not None)
    async with aclosing(stream) as happened:
        events: list[Event] = [event async for event in happened]
    answer = Answer.of(events)
    if timeline is not None:
        from dreamr.timeline import draw

        draw(events, timeline, f"one FPSR session of the bundled pair: {answer.seconds * 1000:.0f} ms")
    return answer


def _show(console: Console, answers: list[Answer], asked: "Question") -> None:
    for answer in answers:
        right = asked.is_right(answer.answer)
        mark = "[green]right[/green]" if right else f"[red]wrong, it is {asked.answer}[/red]"
        console.print(f"  [bold]{answer.policy}[/bold]: {answer.answer} ({mark}) in {answer.seconds:.3f} s")
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=True)
        for step in answer.steps:
            table.add_row("  ", *commit_row(step))
        console.print(table)
    alone, speculating = answers
    console.print(f"  {alone.seconds / speculating.seconds:.2f} times as fast")


def _summarise(console: Console, found: dict[str, list[Answer]], asked: "list[Question]") -> None:
    console.print("\n[bold]summary[/bold]")
    for policy, answers in found.items():
        right = sum(one.is_right(answer.answer) for answer, one in zip(answers, asked, strict=True))
        drafted = sum(answer.totals.steps_by_draft for answer in answers)
        steps = sum(len(answer.steps) for answer in answers)
        seconds = fmean(answer.seconds for answer in answers)
        console.print(
            f"  {policy:7} {right} of {len(answers)} right, mean {seconds:.3f} s, "
            f"{drafted} of {steps} steps by the draft"
        )
    ratio = fmean(one.seconds for one in found["target"]) / fmean(one.seconds for one in found["fpsr"])
    console.print(f"  fpsr is {ratio:.2f} times as fast as the target alone (mean latency)")
