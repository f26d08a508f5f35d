"""The command line: `dreamr`."""

from dreamr.cli.main import main

__all__ = ["main"]
