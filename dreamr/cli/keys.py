"""`dreamr keys`"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from dreamr.cli.running import progress
from dreamr.keys import KeyFile, Limits

app = typer.Typer(
    help="API keys of gateways, kept as hashes in a file that gateways read.", no_args_is_help=True
)

FileOption = Annotated[
    Path, typer.Option("--file", envvar="DREAMR_GATEWAY_KEYS", help="The gateways' file of keys.")
]


@app.command()
def add(
    caller: Annotated[str, typer.Argument(help="Whose key; several keys of one caller share its limits.")],
    file: FileOption = Path("keys.json"),
    max_sessions: Annotated[
        int | None, typer.Option(min=1, help="Sessions of the caller that run at once in a gateway.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Tokens of steps and answers that a gateway gives it.")
    ] = None,
    max_left_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Of sessions left unfinished; beyond it those left first are cancelled."),
    ] = None,
    days: Annotated[int | None, typer.Option(min=1, help="How long the key is valid.")] = None,
) -> None:
    """Make a key and print it, once; with limits, set the caller's."""
    given = {
        "max_sessions": max_sessions,
        "tokens_per_minute": tokens_per_minute,
        "max_left_bytes": max_left_bytes,
    }
    changes = {name: value for name, value in given.items() if value is not None}
    with KeyFile.changed(file) as keys:
        try:
            secret = keys.add(caller, days)
        except ValidationError:
            raise typer.BadParameter(
                "must be letters, digits, '.', '_' and '-', 64 at most", param_hint="CALLER"
            ) from None
        keys.callers[caller] = Limits(**{**keys.callers[caller].model_dump(), **changes})
    progress.print(f"a key for {caller}; it cannot be shown again")
    sys.stdout.write(f"{secret}\n")


@app.command()
def revoke(
    name: Annotated[
        str, typer.Argument(metavar="ID|CALLER", help="A key's id, or a caller for all its keys.")
    ],
    file: FileOption = Path("keys.json"),
) -> None:
    """Revoke a key, or all keys of a caller; gateways refuse it from their next call on."""
    with KeyFile.changed(file) as keys:
        revoked = keys.revoke(name)
    if not revoked:
        raise typer.BadParameter(f"no key that is not revoked yet is, or belongs to, {name}")
    progress.print(f"revoked {', '.join(revoked)}")


@app.command("list")
def list_keys(file: FileOption = Path("keys.json")) -> None:
    """List keys and limits; no secret is among them."""
    keys, now = KeyFile.load(file), datetime.now(UTC)
    names = ("id", "caller", "state", "created", "expires", "sessions", "tokens/min", "left bytes")
    table = Table(*names, box=None)
    for key in keys.keys:
        limits = keys.callers.get(key.caller, Limits())
        most = (limits.max_sessions, limits.tokens_per_minute, limits.max_left_bytes)
        table.add_row(
            *(key.id, key.caller, key.state(now)),
            *(f"{day:%Y-%m-%d}" if day else "-" for day in (key.created, key.expires)),
            *("-" if limit is None else str(limit) for limit in most),
        )
    Console(soft_wrap=True).print(table)
