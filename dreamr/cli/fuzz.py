"""`dreamr fuzz`"""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dreamr.cli.running import progress, run, write_report


def fuzz(
    requests: Annotated[int, typer.Option(min=1, help="How many; half of them with TLS.")] = 2_000,
    seed: Annotated[int, typer.Option(min=0, help="Of the first request; the next ones count up.")] = 0,
    pair: Annotated[
        str,
        typer.Option(help="bundled, emulated:PROFILE, or the file of a pair's settings; a quick one else."),
    ] = "",
    tls: Annotated[bool | None, typer.Option(help="All requests with TLS, or all without.")] = None,
    at_once: Annotated[int, typer.Option(min=1, max=128, help="Requests at the same time.")] = 24,
    out: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
) -> None:
    """Send bad requests to every service of a cluster; exits with 1 where one hangs, crashes or leaks."""
    from bench.fuzz.run import BAD, QUICK
    from bench.fuzz.run import fuzz as send

    with Progress(console=progress) as bar:
        task = bar.add_task("requests", total=requests)
        report = run(
            send(
                requests,
                seed,
                pair=pair or QUICK,
                tls=tls,
                at_once=at_once,
                on_request=lambda: bar.advance(task),
            )
        )
    write_report(out, report)
    console = Console(file=sys.stdout, width=150, highlight=False)
    for name in ("plaintext", "tls"):
        if name in report:
            _show(console, name, report[name])
    console.print(", ".join(f"{report[name]} {name.replace('_', ' ')}" for name in BAD))
    for name, examples in report["examples"].items():
        for example in examples:
            console.print(f"{name}: {example}", markup=False)
    if any(report[name] for name in BAD):
        raise typer.Exit(1)


def _show(console: Console, name: str, part: dict[str, Any]) -> None:
    """Statuses by service and by kind of badness, and sizes."""
    console.rule(f"{name}: {part['requests']} requests in {part['seconds']:.0f} s")
    by_kind: dict[str, Counter[str]] = {}
    by_service: dict[str, Counter[str]] = {}
    for service, kinds in part["statuses"].items():
        for kind, counts in kinds.items():
            by_kind.setdefault(kind, Counter()).update(counts)
            by_service.setdefault(service, Counter()).update(counts)
    for title, rows in (("service", by_service), ("kind", by_kind)):
        table = Table(title, "requests", "ended with")
        for row, counts in sorted(rows.items()):
            ended = ", ".join(f"{count} {status}" for status, count in counts.most_common())
            table.add_row(row, str(counts.total()), ended)
        console.print(table)
    table = Table("part", "MiB after the warm-up and at the end", "descriptors", "tasks")
    for row, size in part["sizes"].items():
        shown = (size.get(key, ()) for key in ("mib", "descriptors", "tasks"))
        table.add_row(row, *(" ".join(f"{value:g}" for value in values) for values in shown))
    console.print(table)
