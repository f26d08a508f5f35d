"""`dreamr calibrate`"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress

from dreamr.cli.running import AddressOption, PairOption, TlsOption, cluster_at, progress, run, write_report
from dreamr.client import AsyncClient
from dreamr.cluster.pairs import PairFiles

if TYPE_CHECKING:
    from bench.calibration.labels import Rollouts
    from bench.questions import Question
    from services.gateway.rule import Rule

RULES = ("tbvm", "digit", "confidence")
"""Those with a score and an alpha of their own that needs no rival."""


def calibrate(
    questions: Annotated[
        Path,
        typer.Option(
            help="JSON lines: question, images (paths beside the file), and the answer where it is known; "
            "else the target's own is taken for right.",
            exists=True,
            dir_okay=False,
        ),
    ],
    out: Annotated[Path | None, typer.Option("--json", help="Write the report to this file.")] = None,
    pair: PairOption = "bundled",
    address: AddressOption = None,
    tls: TlsOption = None,
    api_key: Annotated[
        str | None, typer.Option(help="For a gateway that wants one.", envvar="DREAMR_API_KEY")
    ] = None,
    rule: Annotated[str, typer.Option(help=f"What is calibrated: {', '.join(RULES)}.")] = "tbvm",
    alphas: Annotated[
        str, typer.Option(help="Alphas to run whole sessions with, with commas between.")
    ] = "0.5,0.7,0.9,0.95",
    runs: Annotated[
        int, typer.Option(min=0, help="Questions of the file to run whole sessions on; 0 for none.")
    ] = 100,
    rollouts: Annotated[
        int, typer.Option(min=1, max=64, help="The target's continuations of a step that label it.")
    ] = 1,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="Of several rollouts.")] = 0.7,
    only_rollouts: Annotated[
        bool, typer.Option("--only-rollouts", help="Label so even where a question has its steps.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(min=0, max=100, help="Points of accuracy that speed may cost.")
    ] = 0.5,
    concurrency: Annotated[
        int, typer.Option(min=1, max=32, help="Questions at the same time while steps are collected.")
    ] = 4,
    plots: Annotated[
        Path | None, typer.Option(help="Draw figures to this folder, as SVG files.", file_okay=False)
    ] = None,
    write: Annotated[bool, typer.Option("--write", help="Write the alpha to the pair's settings.")] = False,
    seed: Annotated[int, typer.Option(help="Order of the runs.")] = 1,
) -> None:
    """Tell how well the judge tells right steps from wrong ones, and which alpha to use."""
    from bench.calibration.labels import Rollouts
    from bench.calibration.plots import draw
    from bench.calibration.report import choice_of, tables
    from bench.calibration.settings import write_alpha
    from bench.questions import from_file
    from services.gateway.rule import Rule

    if rule not in RULES:
        raise typer.BadParameter(f"must be one of {', '.join(RULES)}", param_hint="--rule")
    tried = _alphas(alphas)
    settings = _settings(pair, rule, runs) if write else None
    try:
        asked = from_file(questions)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--questions") from error
    if not asked:
        raise typer.BadParameter("holds no question", param_hint="--questions")
    labels = Rollouts(rollouts, temperature)
    report = run(
        _calibrate(
            (address, tls, api_key, pair),
            asked,
            rule=Rule(rule),
            alphas=tried,
            runs=runs,
            rollouts=labels,
            only_rollouts=only_rollouts,
            tolerance=tolerance / 100,
            concurrency=concurrency,
            seed=seed,
        )
    )
    write_report(out, report)
    if plots is not None:
        for path in draw(report, plots):
            progress.print(f"drawn: {path}")
    console = Console(file=sys.stdout, width=120)
    for table in tables(report):
        console.print(table)
    for warning in report["warnings"]:
        progress.print(f"[bold red]warning:[/] {warning}")
    choice = choice_of(report)
    if choice is None:
        return
    sys.stdout.write(f"alpha: {'none' if choice.alpha is None else f'{choice.alpha:g}'} ({choice.why})\n")
    if settings is None:
        return
    if choice.alpha is None or report["warnings"]:
        progress.print(f"{settings} is left as it is")
        raise typer.Exit(1)
    write_alpha(settings, Rule(rule), choice.alpha)
    progress.print(f"written to {settings}; services read it when they start")


def _alphas(text: str) -> list[float]:
    try:
        found = sorted({float(number) for number in text.split(",")})
    except ValueError:
        found = []
    if not found or not all(0 <= alpha <= 1 for alpha in found):
        raise typer.BadParameter("give numbers from 0 to 1, with commas between", param_hint="--alphas")
    return found


def _settings(pair: str, rule: str, runs: int) -> Path:
    """The file to write to: better refused now than after minutes."""
    if pair.startswith("emulated:"):
        raise typer.BadParameter("an emulated pair has no alpha of its own", param_hint="--write")
    if not runs:
        raise typer.BadParameter("without runs no alpha is chosen", param_hint="--write")
    from services.common.pair import Pair

    settings = PairFiles.of(pair, None, Path()).settings
    try:
        if getattr(Pair.load(settings), rule) is None:
            raise ValueError(f"pair {settings}: has no section [{rule}]")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--write") from error
    if not os.access(settings, os.W_OK) or not os.access(settings.parent, os.W_OK):
        raise typer.BadParameter(f"{settings} cannot be written", param_hint="--write")
    return settings


async def _calibrate(
    where: tuple[str | None, Path | None, str | None, str],
    asked: "list[Question]",
    *,
    rule: "Rule",
    alphas: list[float],
    runs: int,
    rollouts: "Rollouts",
    only_rollouts: bool,
    tolerance: float,
    concurrency: int,
    seed: int,
) -> dict[str, Any]:
    from bench.calibration.collect import collect
    from bench.calibration.report import report
    from bench.meter import Meter
    from bench.report import BASELINE
    from bench.runner import Measured, measure, warm_up
    from bench.variant import Variant
    from services.gateway.policy import FPSR
    from services.gateway.rule import Rule

    address, tls, api_key, pair = where
    async with (
        cluster_at(address, pair, sessions=concurrency, tls=tls) as target,
        AsyncClient(target.address, tls=target.tls, api_key=api_key) as client,
    ):
        with Progress(console=progress) as bar:
            task = bar.add_task("steps", total=len(asked))
            collected = await collect(
                client,
                asked,
                rule=rule,
                rollouts=rollouts,
                only_rollouts=only_rollouts,
                concurrency=concurrency,
                on_question=lambda: bar.advance(task),
            )
            measured: dict[str, Measured] = {}
            if runs:
                own = None if rule is Rule.TBVM else rule
                policies = [BASELINE, *(Variant(FPSR.name, own, alpha).name for alpha in alphas)]
                chosen = collected.questions[:runs]
                await warm_up(client, chosen, policies)
                task = bar.add_task("whole sessions", total=len(chosen) * len(policies))
                measured = await measure(
                    client,
                    chosen,
                    policies,
                    seed=seed,
                    concurrency=1,
                    meter=Meter(target.cluster) if target.cluster else None,
                    on_answer=lambda: bar.advance(task),
                )
    return report(collected, measured, rule=rule, alphas=alphas, tolerance=tolerance, pair=pair, seed=seed)
