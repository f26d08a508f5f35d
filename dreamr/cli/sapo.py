"""`dreamr sapo`"""

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.progress import Progress

from dreamr.cli.running import PairOption, TlsOption, check_address, progress, run
from training.sapo.settings import SapoSettings


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command an option for each setting of a SAPO run, with its description."""
    signature = inspect.signature(command)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[
                field.annotation, typer.Option(help=field.description, rich_help_panel="Learning")
            ],
        )
        for name, field in SapoSettings.model_fields.items()
    ]
    command.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return command


@with_settings
def sapo(
    folder: Annotated[
        Path, typer.Option("--run", help="Folder of the run: checkpoints, figures, the best draft.")
    ] = Path("training/runs/sapo"),
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on exactly where the run in the folder was stopped.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after so long, with a checkpoint to go on from.")
    ] = None,
    pair: PairOption = "bundled",
    repository: Annotated[
        Path | None, typer.Option(help="Triton's model repository of a pair of your own.", file_okay=False)
    ] = None,
    draft: Annotated[
        Path | None,
        typer.Option(help="Folder of the draft to begin with; by default its last version.", exists=True),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            help="Questions of your own: JSON lines (question, images, answer).",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a target that runs; with --verifier.", callback=check_address),
    ] = None,
    verifier: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a verifier that runs; without it a cluster is started.", callback=check_address
        ),
    ] = None,
    tls: TlsOption = None,
    into: Annotated[
        Path | None,
        typer.Option(
            "--export",
            help="Triton's model repository that the best draft is added to, as a new version.",
            file_okay=False,
        ),
    ] = None,
    **settings: Any,
) -> None:
    """Train the draft to be accepted (SAPO): GRPO, rewarded by answers, the live verifier, and length.

    The whole way:

    1. Record: gateways with DREAMR_GATEWAY_RECORD=FOLDER keep a share of their sessions
    (DREAMR_GATEWAY_RECORD_SHARE) as questions. Or write a file of your own; the bundled task has its own.

    2. Train: `dreamr sapo --run RUN --questions FILE`, and the same with --resume after a stop.
    RUN/metrics.csv has each update, RUN/evaluations.jsonl each checkpoint through the whole cluster,
    RUN/*.svg the curves, RUN/best the fastest checkpoint that loses no accuracy.

    3. Export: with `--export REPOSITORY` it becomes the draft's next version there, N.

    4. Load it beside the old one and give it a share of the sessions: `dreamr draft promote N --share 0.1
    --repository REPOSITORY --triton HOST:PORT`.

    5. Compare: `dreamr draft list --metrics HOST:PORT` tells what was accepted of each version, `dreamr bench
    --policies target,fpsr@1,fpsr@N --address HOST:PORT` their accuracy and speed while both are loaded.

    6. `dreamr draft promote N ...` for all sessions, or `dreamr draft rollback ...`. No restart, no session
    lost.
    """
    # Before torch is there: a thread that spins at a barrier takes the core that the target needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if (target is None) != (verifier is None):
        raise typer.BadParameter("--target and --verifier are given together", param_hint="--verifier")
    try:
        chosen = SapoSettings(**settings)
    except ValidationError as error:
        detail = error.errors()[0]
        hint = "".join(f"--{name}" for name in map(str, detail["loc"]))
        raise typer.BadParameter(detail["msg"], param_hint=hint.replace("_", "-") or None) from error
    from services.common.errors import ServiceError

    try:
        from training.sapo.live import Running
        from training.sapo.plots import draw
        from training.sapo.run import RunError, Sapo, Told, quiet
    except ModuleNotFoundError as error:
        sys.stderr.write(f"dreamr: {error.name} is not installed: pip install 'dreamr[sapo]'\n")
        raise typer.Exit(1) from error
    quiet()
    running = Running(target, verifier) if target and verifier else None
    work = Sapo(folder, chosen, pair, repository, draft, file, running, tls, minutes)
    try:
        work.prepare(resume=resume)
        with Progress(console=progress) as bar:
            task = bar.add_task("updates", total=chosen.steps)
            done = run(
                work.learn(
                    Told(
                        step=lambda step: bar.update(task, completed=step),
                        evaluated=lambda found: bar.console.print(_line(found)),
                    )
                )
            )
    except RunError as error:
        raise typer.BadParameter(str(error)) from error
    except ServiceError as error:
        sys.stderr.write(f"dreamr: {error}; go on with --resume\n")
        raise typer.Exit(1) from error
    for path in draw(folder):
        progress.print(f"drawn: {path}")
    found = work.best()
    if found is None or found.step == 0:
        sys.stdout.write("no checkpoint keeps the accuracy and is faster than the draft it began with\n")
        raise typer.Exit(1)
    sys.stdout.write(f"best after {done} updates: {_line(found)}; its weights: {work.best_folder}\n")
    if into is not None:
        sys.stdout.write(f"exported: {_export(work.best_folder, into, pair, repository)}\n")


def _line(found: Any) -> str:
    """An evaluation in a line."""
    low, high = found.speedup.ci95 or (found.speedup.value,) * 2
    worst, most = found.difference.ci95 or (found.difference.value,) * 2
    return (
        f"step {found.step}: {found.acceptance:.1%} accepted, {found.speedup.value:.2f} times as fast "
        f"({low:.2f} to {high:.2f}), {found.difference.value:+.1%} right ({worst:+.1%} to {most:+.1%}), "
        f"{found.tokens['fpsr']:.0f} tokens against {found.tokens['target']:.0f}"
    )


def _export(weights: Path, into: Path, pair: str, repository: Path | None) -> Path:
    from dreamr.cluster.pairs import PairFiles
    from dreamr.cluster.versions import new_version
    from services.common.pair import Pair

    names = Pair.load(PairFiles.of(pair, repository, into).settings)
    return new_version(into / names.draft.triton_model, weights)
