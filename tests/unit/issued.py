"""Certificates as `dreamr certs` makes them."""

from pathlib import Path

from typer.testing import CliRunner, Result

from dreamr.cli.main import app


def certs(folder: Path, *flags: str) -> Result:
    """Runs the command."""
    return CliRunner().invoke(app, ["certs", str(folder), *flags])


def issued(folder: Path, *flags: str) -> Path:
    """A folder with a CA and a certificate for each role."""
    ended = certs(folder, *flags)
    assert ended.exit_code == 0, ended.output
    return folder
