"""What the images are made of is enough to run; without an engine."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROLES = ("draft", "target", "verifier", "gateway")
STARTED = ["dreamr.cli", *(f"services.{role}.__main__" for role in ROLES)]
# Where each of our modules came from once those are imported.
SCRIPT = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
ours = ("dreamr", "services", "training", "bench")
found = {name: getattr(module, "__file__", None) for name, module in sys.modules.items()}
# Folders without an __init__ have no file.
print(json.dumps({name: file for name, file in found.items() if file and name.split(".")[0] in ours}))
"""


def test_what_is_started_imports_nothing_that_an_image_lacks(tmp_path: Path) -> None:
    for line in Path(".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            kept = tmp_path / line[1:]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.symlink_to(Path(line[1:]).resolve())
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *STARTED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert set(STARTED) <= set(found)
    # The rest of the repository may be installed here, and an image has none of it.
    assert {name for name, file in found.items() if not Path(file).is_relative_to(tmp_path)} == set()
