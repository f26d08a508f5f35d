"""`dreamr simulate`"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from dreamr.cli.running import progress, write_report


def simulate(
    sessions: Annotated[int, typer.Option(min=1, help="How many sessions.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the first session; the next ones count up.")] = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Play sessions with faults under a virtual clock, and check the rules of FPSR at every event."""
    from bench.simulation.run import simulate as play

    with Progress(console=progress) as bar:
        task = bar.add_task("sessions", total=sessions)
        result = play(sessions, seed, lambda count: bar.advance(task, count))
    report = result.to_json()
    write_report(out, report)
    faults = ", ".join(f"{count} {kind}" for kind, count in report["faults"].items())
    sys.stdout.write(
        f"{result.sessions} sessions, {result.answered} answered, {result.seconds:.0f} virtual seconds\n"
        f"faults: {faults or 'none'}\n"
        f"{result.checks} invariants checked, {len(result.violations)} violations\n"
    )
    for found in result.violations[:10]:
        sys.stdout.write(
            f"\n{found.rule}\n  again: dreamr simulate --sessions 1 --seed {found.seed}\n  {found.smallest}\n"
        )
    if result.violations:
        raise typer.Exit(1)
