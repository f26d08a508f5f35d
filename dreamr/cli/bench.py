"""`dreamr bench`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from dreamr.cli.running import (
    MAX_DRAFT_WORKERS,
    AddressOption,
    PairOption,
    TlsOption,
    cluster_at,
    progress,
    run,
    write_report,
)
from dreamr.client import AsyncClient

if TYPE_CHECKING:
    from bench.meter import Meter
    from bench.questions import Question
    from bench.runner import Measured

MAX_CONCURRENCY = 256


def bench(
    policies: Annotated[
        str,
        typer.Option(
            help="Policies, with commas between; `fpsr:cascade`, `fpsr:0.7`: another rule or alpha; "
            "`fpsr@2`: version 2 of the draft; `fpsr+width=2`, also with window and first_on_target."
        ),
    ] = "target,fpsr",
    questions: Annotated[
        int,
        typer.Option(min=1, help="How many held-out questions; with several at the same time whole rounds."),
    ] = 50,
    seed: Annotated[int, typer.Option(help="Which questions, and in which order.")] = 1,
    file: Annotated[
        Path | None, typer.Option(help="Questions of your own: JSON lines (image, question, answer).")
    ] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    plots: Annotated[
        Path | None, typer.Option(help="Draw figures to this folder, as SVG files.", file_okay=False)
    ] = None,
    pair: PairOption = "bundled",
    concurrency: Annotated[str, typer.Option(help="Questions at the same time, with commas between.")] = "1",
    draft_workers: Annotated[
        str, typer.Option(help="Draft workers, with commas between: a cluster of its own for each number.")
    ] = "1",
    governor: Annotated[
        bool | None,
        typer.Option(help="Whether sessions may speculate less; as each policy has it."),
    ] = None,
    address: AddressOption = None,
    tls: TlsOption = None,
) -> None:
    """Measure policies side by side, on the same questions in one run."""
    from bench.plots import draw
    from bench.report import by_level, scaling, table, waits
    from bench.variant import Variant

    names = [name.strip() for name in policies.split(",") if name.strip()]
    if len(set(names)) != len(names) or not names:
        raise typer.BadParameter("give each policy once", param_hint="--policies")
    try:
        for name in names:
            Variant.parse(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--policies") from error
    levels = _numbers(concurrency, MAX_CONCURRENCY, "--concurrency")
    workers = _numbers(draft_workers, MAX_DRAFT_WORKERS, "--draft-workers")
    if address is not None and workers != [1]:
        raise typer.BadParameter(
            "not with --address: its cluster has the workers that it has", param_hint="--draft-workers"
        )
    report = run(_bench(address, tls, pair, names, questions, seed, file, levels, workers, governor))
    write_report(out, report)
    if plots is not None:
        for path in draw(report, plots):
            progress.print(f"drawn: {path}")
    console = Console(file=sys.stdout, width=150)
    several = report.get("draft_workers", [])
    for entry in several or [report]:
        if several:
            console.rule(f"draft workers: {entry['draft_workers']}")
        for level in by_level(entry):
            console.print(table(level))
            console.print(waits(level))
    if len(several) > 1:
        console.print(scaling(report))


def _numbers(text: str, most: int, option: str) -> list[int]:
    """Numbers with commas between, each once and in order."""
    try:
        found = sorted({int(number) for number in text.split(",")})
    except ValueError:
        found = []
    if not found or not 1 <= found[0] <= found[-1] <= most:
        raise typer.BadParameter(f"give numbers from 1 to {most}, with commas between", param_hint=option)
    return found


async def _bench(
    address: str | None,
    tls: Path | None,
    pair: str,
    policies: list[str],
    count: int,
    seed: int,
    file: Path | None,
    levels: list[int],
    workers: list[int],
    governor: bool | None,
) -> dict[str, Any]:
    from bench.meter import Meter
    from bench.questions import emulated, from_file, held_out
    from bench.report import to_json
    from bench.runner import asked_at

    most = max(asked_at(level, count) for level in levels)
    try:
        if file:
            asked = from_file(file)[:most]
        else:
            asked = (emulated if pair.startswith("emulated:") else held_out)(most, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--file") from error
    if not asked:
        raise typer.BadParameter("holds no question", param_hint="--file")
    if any(one.answer is None for one in asked):
        raise typer.BadParameter("holds a question without an answer", param_hint="--file")
    questions = {level: asked[: asked_at(level, count)] for level in levels}
    found = {}
    for number in workers:
        async with (
            cluster_at(address, pair, number, max(levels), tls) as target,
            AsyncClient(target.address, tls=target.tls) as client,
        ):
            meter = Meter(target.cluster) if target.cluster else None
            found[number] = await _levels(client, meter, questions, policies, seed, governor)
    return to_json(found, seed=seed, pair=pair)


async def _levels(
    client: AsyncClient,
    meter: "Meter | None",
    questions: "dict[int, list[Question]]",
    policies: list[str],
    seed: int,
    governor: bool | None,
) -> "dict[int, dict[str, Measured]]":
    """The questions of each concurrency, asked."""
    from bench.runner import measure, warm_up

    with progress.status("warming up"):
        await warm_up(client, next(iter(questions.values())), policies)
    with Progress(console=progress) as bar:
        task = bar.add_task("questions", total=sum(map(len, questions.values())) * len(policies))
        return {
            level: await measure(
                client,
                asked,
                policies,
                seed=seed,
                concurrency=level,
                governor=governor,
                meter=meter,
                on_answer=lambda: bar.advance(task),
            )
            for level, asked in questions.items()
        }
