"""`dreamr bench`"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from dreamr.cli.running import AddressOption, PairOption, cluster_at, progress, run
from dreamr.client import AsyncClient

MAX_CONCURRENCY = 256


def bench(
    policies: Annotated[str, typer.Option(help="Policies, with commas between.")] = "target,fpsr",
    questions: Annotated[int, typer.Option(min=1, help="How many held-out questions.")] = 50,
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
    address: AddressOption = None,
) -> None:
    """Measure policies side by side, on the same questions in one run."""
    from bench.plots import draw
    from bench.report import table, waits

    names = [name.strip() for name in policies.split(",") if name.strip()]
    if len(set(names)) != len(names) or not names:
        raise typer.BadParameter("give each policy once", param_hint="--policies")
    try:
        levels = sorted({int(level) for level in concurrency.split(",")})
    except ValueError:
        levels = []
    if not levels or not 1 <= levels[0] <= levels[-1] <= MAX_CONCURRENCY:
        raise typer.BadParameter(
            f"give numbers from 1 to {MAX_CONCURRENCY}, with commas between", param_hint="--concurrency"
        )
    report = run(_bench(address, pair, names, questions, seed, file, levels))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(report, indent=2) + "\n")
    if plots is not None:
        for path in draw(report, plots):
            progress.print(f"drawn: {path}")
    console = Console(file=sys.stdout, width=150)
    for level in report.get("levels", [report]):
        console.print(table(level))
        console.print(waits(level))


async def _bench(
    address: str | None,
    pair: str,
    policies: list[str],
    count: int,
    seed: int,
    file: Path | None,
    levels: list[int],
) -> dict[str, Any]:
    from bench.meter import Meter
    from bench.questions import emulated, from_file, held_out
    from bench.report import to_json
    from bench.runner import measure

    try:
        if file:
            asked = from_file(file)[:count]
        else:
            asked = (emulated if pair.startswith("emulated:") else held_out)(count, seed)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--file") from error
    if not asked:
        raise typer.BadParameter("holds no question", param_hint="--file")
    async with cluster_at(address, pair) as target, AsyncClient(target.address) as client:
        cluster = target.cluster
        with Progress(console=progress) as bar:
            task = bar.add_task("questions", total=len(asked) * len(policies) * len(levels))
            measured = {
                level: await measure(
                    client,
                    asked,
                    policies,
                    seed=seed,
                    concurrency=level,
                    meter=Meter(cluster) if cluster else None,
                    on_answer=lambda: bar.advance(task),
                )
                for level in levels
            }
    return to_json(measured, seed=seed, pair=pair)
