"""`dreamr chaos`"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from dreamr.cli.running import PairOption, progress, run, write_report


def chaos(
    sessions: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the questions and the faults.")] = 1,
    pair: PairOption = "bundled",
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1, max=64, help="Sessions at the same time; 6 unless told, 48 with an emulated pair."
        ),
    ] = None,
    min_faults: Annotated[
        int, typer.Option(min=0, help="Of each kind; sessions go on until there were so many.")
    ] = 30,
    store: Annotated[
        bool,
        typer.Option(
            "--store",
            help="Kill Redis as well, which comes back with what it had, or empty in quiet times.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
) -> None:
    """Kill, freeze, stop and cut off parts of a cluster while it works; exits with 1 where anything is lost.

    Faults are drawn so that all kinds, and for each kind all parts, come equally often.
    """
    from bench.chaos.run import trouble
    from bench.chaos.watched import BAD
    from bench.questions import emulated, held_out

    is_emulated = pair.startswith("emulated:")
    questions = (emulated if is_emulated else held_out)(sessions, seed)
    with Progress(console=progress) as bar:
        task = bar.add_task("sessions", total=sessions)
        report = run(
            trouble(
                pair,
                questions,
                seed=seed,
                at_once=at_once or (48 if is_emulated else 6),
                min_faults=min_faults,
                store=store,
                on_answer=lambda: bar.advance(task),
            )
        )
    write_report(out, report)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if any(report[name] for name in BAD):
        raise typer.Exit(1)
