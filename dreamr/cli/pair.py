"""`dreamr pair`"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer
from rich.markup import escape

from dreamr.cli.running import cluster_at, progress, run
from dreamr.cluster.pairs import PairFiles

if TYPE_CHECKING:
    from dreamr.pair.probe import Probe

app = typer.Typer(help="A pair of your own, from two Hugging Face folders.", no_args_is_help=True)

ProbeOption = Annotated[bool, typer.Option(help="Start Triton with both models and ask each one a question.")]
QuestionsOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON lines as `dreamr calibrate` takes them: go on with it, and write the alpha.",
        exists=True,
        dir_okay=False,
    ),
]
RepositoryOption = Annotated[
    Path | None,
    typer.Option(
        help="Triton's model repository; the one beside FILE by default.", exists=True, file_okay=False
    ),
]


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="What the pair is called.")],
    target: Annotated[Path, typer.Option(help="Folder of the large model.")],
    draft: Annotated[Path, typer.Option(help="Folder of the small model.")],
    backend: Annotated[
        Literal["transformers", "vllm"], typer.Option(help="Of Triton: ours, or vLLM's for GPUs.")
    ] = "transformers",
    into: Annotated[Path | None, typer.Option(help="Folder to write; NAME by default.")] = None,
    copy: Annotated[
        bool, typer.Option("--copy", help="Copy the weights instead of naming their folders.")
    ] = False,
    probe: ProbeOption = True,
    questions: QuestionsOption = None,
) -> None:
    """Write a pair's settings and Triton's model repository, check both models, and try them out."""
    from dreamr.pair.adding import add_pair
    from dreamr.pair.model_folder import PairFolderError

    if questions is not None and backend == "vllm":
        raise typer.BadParameter(_NO_VLLM, param_hint="--questions")
    try:
        added = add_pair(
            name, target=target, draft=draft, into=into or Path(name), backend=backend, copy=copy
        )
    except PairFolderError as error:
        _refuse(str(error).splitlines())
    for finding in added.warnings:
        _warn(finding.text)
    progress.print(f"written: {added.settings} and {added.repository}", markup=False, soft_wrap=True)
    if probe and backend == "vllm":
        progress.print(f"not tried out: {_NO_VLLM}")
    elif probe:
        try:
            _probe(added.settings, added.repository)
        except BaseException:
            again = f"dreamr pair check {added.settings}"
            progress.print(f"not tried out; the pair stays as it is: {again}", markup=False, soft_wrap=True)
            raise
    sys.stdout.write(f"{added.settings}\n")
    if questions is not None:
        _calibrate(added.settings, questions)


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A model as GGUF.", exists=True, dir_okay=False)],
    folder: Annotated[Path, typer.Argument(help="Folder to write.")],
) -> None:
    """Make a folder for `pair add` of a GGUF file, with its weights in 32 bits."""
    from dreamr.pair.gguf import convert as convert_file
    from dreamr.pair.model_folder import PairFolderError

    try:
        with progress.status("reading"):
            convert_file(file, folder)
    except PairFolderError as error:
        _refuse(str(error).splitlines())
    sys.stdout.write(f"{folder}\n")


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The pair's settings.", exists=True, dir_okay=False)],
    repository: RepositoryOption = None,
    probe: ProbeOption = True,
    questions: QuestionsOption = None,
) -> None:
    """Check a pair again, and try it out."""
    from dreamr.pair.checks import check_pair, on_gpus
    from dreamr.pair.writing import REPOSITORY
    from services.common.pair import Pair

    found = PairFiles.of(str(file), repository or file.parent / REPOSITORY, Path())
    if not found.repository.is_dir():
        _refuse([f"{found.repository}: is not there; name Triton's model repository (--repository)"])
    try:
        pair = Pair.load(found.settings)
    except ValueError as error:
        _refuse([str(error)])
    findings = check_pair(pair, found.repository)
    if wrong := [finding.text for finding in findings if finding.level == "error"]:
        _refuse(wrong)
    for finding in findings:
        _warn(finding.text)
    if on_gpus(pair, found.repository):
        if questions is not None:
            raise typer.BadParameter(_NO_VLLM, param_hint="--questions")
        if probe:
            progress.print(f"not tried out: {_NO_VLLM}")
    elif probe:
        _probe(found.settings, found.repository)
    sys.stdout.write("ok\n")
    if questions is not None:
        _calibrate(found.settings, questions)


_NO_VLLM = (
    "vLLM's backend comes with NVIDIA's Triton, not with the one that is started here; see docs/own-pair.md"
)


def _refuse(lines: list[str]) -> NoReturn:
    for line in lines:
        progress.print("[bold red]error:[/]", escape(line), soft_wrap=True)
    raise typer.Exit(1)


def _warn(text: str) -> None:
    progress.print("[bold yellow]warning:[/]", escape(text), soft_wrap=True)


def _probe(settings: Path, repository: Path) -> None:
    found = run(_probed(settings, repository))
    for role, said in (("target", found.target), ("draft", found.draft)):
        sys.stdout.write(
            f"{role:7} {said.tokens_per_second:8.1f} tokens/s, the first after {said.first_seconds:.2f} s: "
            f"{said.text[:60]!r}\n"
        )
    verdict = found.verdict
    sys.stdout.write(f"ratio   {found.ratio:8.2f}\n")
    sys.stdout.write(
        f"verdict {verdict.score:8.2f} for a step that is right (positive {verdict.p_pos:.3f}, "
        f"negative {verdict.p_neg:.3f})\n"
    )
    for text in found.warnings():
        _warn(text)


async def _probed(settings: Path, repository: Path) -> "Probe":
    from dreamr.pair.probe import probe
    from services.common.pair import Pair

    reasoning = Pair.load(settings).reasoning
    images = max(reasoning.min_images, min(1, reasoning.max_images))
    async with cluster_at(None, str(settings), repository=repository) as target:
        assert target.cluster is not None
        return await probe(target.cluster.addresses, images)


def _calibrate(settings: Path, questions: Path) -> None:
    from dreamr.cli.calibrate import calibrate

    calibrate(questions=questions, pair=str(settings), write=True)
