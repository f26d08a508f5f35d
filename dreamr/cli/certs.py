"""`dreamr certs`"""

import sys
from pathlib import Path
from typing import Annotated

import typer

MAX_DAYS = 3650


def certs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write to.", file_okay=False)],
    days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="How long the roles' certificates are valid.")
    ] = 365,
    hosts: Annotated[
        str, typer.Option(help="Further names and addresses of the gateway, with commas between.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Write to a folder that has files; its CA is kept.")
    ] = False,
) -> None:
    """Make a CA for testing, and a certificate and key for each role; with --force, renew the roles'."""
    from dreamr.cluster.authority import Authority, host_name
    from dreamr.tls import ROLES

    if not force and folder.exists() and any(folder.iterdir()):
        raise typer.BadParameter(
            f"{folder} is not empty; --force writes the roles' certificates anew", param_hint="DIR"
        )
    names = [host_name(host) for host in hosts.replace(",", " ").split()]
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority.at(folder)
    for role in ROLES:
        end = authority.issue(folder, role, days, names if role == "gateway" else ())
        sys.stdout.write(f"{role}: valid until {end:%Y-%m-%d}\n")
