"""Generates the stubs of `protos/` into `dreamr/v1` whenever the package is built or installed."""

import shutil
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithStubs(build_py):
    """`build_py` with protoc in front; an editable install runs it too."""

    def run(self) -> None:
        from grpc_tools import protoc

        # Installed beside the interpreter, which need not be on PATH; an isolated build has it there.
        name = "protoc-gen-mypy_grpc"
        plugin = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
        protos = sorted(str(path) for path in (ROOT / "protos").rglob("*.proto"))
        flags = [f"--{kind}_out={ROOT}" for kind in ("python", "pyi", "grpc_python", "mypy_grpc")]
        if protoc.main(["protoc", f"-I{ROOT / 'protos'}", f"--plugin={name}={plugin}", *flags, *protos]) != 0:
            raise SystemExit("protoc failed")
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
