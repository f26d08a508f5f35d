"""`dreamr draft`"""

import asyncio
import json
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dreamr.cli.running import TlsOption, check_addresses, progress
from dreamr.cluster.triton import MODELS
from dreamr.cluster.versions import versions
from dreamr.files import only_one, replace
from dreamr.tls import Tls
from dreamr.versions import NAME, VersionFile

app = typer.Typer(
    help="Versions of the draft: a new one is loaded beside the old one, gets a share of the sessions, "
    "and is promoted or rolled back as the cluster runs.",
    no_args_is_help=True,
)
MODEL = "draft"
LOAD_SECONDS = 600.0
NOTE_WIDTH = 40
# Draft services look at the file with each call, and a call writes a whole window.
SETTLE_SECONDS = 5.0
_POLICY = re.compile(r"^version_policy\b.*\n", re.MULTILINE)

RepositoryOption = Annotated[
    Path, typer.Option(help="Triton's model repository.", exists=True, file_okay=False)
]
TritonOption = Annotated[
    str | None,
    typer.Option(
        help="HOST:PORT of Triton (`dreamr up` tells), or several with commas between; without it the next "
        "start takes the change.",
        callback=check_addresses,
    ),
]


@app.command("list")
def list_versions(
    repository: RepositoryOption = MODELS / "repository",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the gateways' metrics, with commas between: tells what was accepted.",
            callback=check_addresses,
        ),
    ] = None,
) -> None:
    """List the versions, the sessions' shares of them, and with --metrics what was accepted of each."""
    model = repository / MODEL
    file = VersionFile.load(model / NAME)
    counts = asyncio.run(_counts(metrics.split(","))) if metrics else Counter[tuple[int, str]]()
    table = Table("version", "sessions", "accepted", "judged", "made", box=None)
    for version in versions(model):
        accepted, rejected = counts[version, "accept"], counts[version, "reject"]
        judged = accepted + rejected
        about = model / str(version) / "weights" / "training.json"
        note = json.loads(about.read_text()).get("note", "") if about.exists() else ""
        share = f"{accepted / judged:.1%}" if judged else "-"
        table.add_row(
            *(str(version), _sessions(file, version, versions(model)[-1])),
            *(share, str(judged), textwrap.shorten(note, NOTE_WIDTH, placeholder="...")),
        )
    Console(soft_wrap=True).print(table)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(min=1, help="Which.")],
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the sessions, those it gets; 1 makes it the only one.")
    ] = 1.0,
    repository: RepositoryOption = MODELS / "repository",
    triton: TritonOption = None,
    tls: TlsOption = None,
) -> None:
    """Load a version beside the one that is there and give it a share of the sessions, or all of them."""
    model = repository / MODEL
    known = versions(model)
    if version not in known:
        raise typer.BadParameter(f"there are {', '.join(map(str, known))}", param_hint="VERSION")

    def change(file: VersionFile) -> VersionFile:
        # Without a file Triton has loaded the latest one: the one before is what drafts now, if this is it.
        stable = file.stable or next((one for one in reversed(known) if one != version), version)
        if share < 1 and version != stable:
            return VersionFile(stable=stable, candidate=version, share=share, previous=file.previous)
        return VersionFile(stable=version, previous=stable if stable != version else file.previous)

    _change(model, change, triton, tls)


@app.command()
def rollback(
    repository: RepositoryOption = MODELS / "repository",
    triton: TritonOption = None,
    tls: TlsOption = None,
) -> None:
    """Take the version on trial out again; without one, go back to what was stable before."""

    def change(file: VersionFile) -> VersionFile:
        if file.candidate:
            return VersionFile(stable=file.stable, previous=file.previous)
        if not file.previous:
            raise typer.BadParameter("there is no version on trial, and none before")
        return VersionFile(stable=file.previous, previous=file.stable)

    _change(repository / MODEL, change, triton, tls)


def _change(
    model: Path, change: Callable[[VersionFile], VersionFile], triton: str | None, tls: Path | None
) -> None:
    """Loads what is to be used, then says so to the draft services, and lets go of the rest at last."""
    path = model / NAME
    with only_one(path):
        before = VersionFile.load(path)
        after = change(before)
        both = sorted({*(before.used or versions(model)[-1:]), *after.used})
        _set_policy(model, both)
        asyncio.run(_load(triton, tls))
        after.save(path)
        if both != after.used:
            # Sessions that draft with the old one have a call under way; Triton lets it end.
            if triton:
                asyncio.run(asyncio.sleep(SETTLE_SECONDS))
            _set_policy(model, after.used)
            asyncio.run(_load(triton, tls))
    for version in after.used:
        progress.print(f"version {version}: {_sessions(after, version, version)} of the sessions")


def _set_policy(model: Path, used: list[int]) -> None:
    """Writes to `config.pbtxt` which versions Triton loads, so that its next start does the same."""
    path = model / "config.pbtxt"
    line = f"version_policy: {{ specific: {{ versions: [ {', '.join(map(str, used))} ] }} }}\n"
    rest = _POLICY.sub("", path.read_text())
    replace(path, f"{rest.rstrip()}\n{line}".encode())


async def _load(triton: str | None, tls: Path | None) -> None:
    from services.common.triton import TritonModel

    shown = Tls.of(tls, "client") if tls else None
    for address in triton.split(",") if triton else ():
        model = TritonModel(address, MODEL, "triton" if tls else "", shown)
        try:
            await model.load(LOAD_SECONDS)
        finally:
            await model.close()


async def _counts(addresses: list[str]) -> "Counter[tuple[int, str]]":
    """Verdicts by version and outcome, over all gateways."""
    from dreamr.cluster.metrics import scrape_labels

    found = Counter[tuple[int, str]]()
    for address in addresses:
        for labels, value in await scrape_labels(address, "dreamr_draft_verdicts_total"):
            found[int(labels["version"]), labels["outcome"]] += int(value)
    return found


def _sessions(file: VersionFile, version: int, latest: int) -> str:
    stable = file.stable or latest
    if version == file.candidate:
        return f"{file.share:.0%}"
    if version == stable:
        return f"{1 - (file.share if file.candidate else 0):.0%}"
    return "previous" if version == file.previous else "-"
