"""Prints what the project depends on, with the extras that are named: for an image's layer of its own."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]
extras = project["optional-dependencies"]
sys.stdout.write(
    "\n".join([*project["dependencies"], *(line for name in sys.argv[1:] for line in extras[name])])
)
