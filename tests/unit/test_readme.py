"""What the README tells people to type exists, and its pictures and pages are there."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import dreamr
from dreamr.cli.up import up

README = Path("README.md").read_text("utf-8")
PAGES = [
    README,
    *(Path(f"docs/{name}.md").read_text("utf-8") for name in ("client", "own-pair", "first-steps")),
]
BLOCKS = [block for page in PAGES for block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)]
SHELL = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
    if line.strip()
]


# Commands that have commands of their own.
GROUPS = {"draft", "keys", "pair"}


def help_of(*command: str) -> str:
    program = [sys.executable, "-c", "from dreamr.cli import main; main()", *command, "--help"]
    environment = {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb", "PATH": "/usr/bin:/bin"}
    return subprocess.run(program, capture_output=True, text=True, check=True, env=environment).stdout


def test_every_make_target_exists() -> None:
    named = {line.split()[1] for line in SHELL if line.startswith("make ")}
    assert {"demo", "test"} <= named
    inline = set(re.findall(r"`make ([a-z-]+)`", README))
    targets = set(re.findall(r"^([a-z-]+):", Path("Makefile").read_text(), re.MULTILINE))
    assert named | inline <= targets


@pytest.mark.parametrize("line", [line for line in SHELL if line.startswith(".venv/bin/dreamr")])
def test_every_command_knows_its_options(line: str) -> None:
    _, command, *arguments = shlex.split(line)
    known = help_of(command, *arguments[: command in GROUPS])
    assert [word for word in arguments if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "python"])
def test_the_examples_compile(block: str) -> None:
    # `async with` stands on its own there, as in the asyncio REPL.
    lines = "\n".join(f"    {line}" for line in block.splitlines())
    compile(f"async def example():\n{lines}\n", "README.md", "exec")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_lead_somewhere(link: str) -> None:
    assert Path(link).exists()


@pytest.mark.parametrize("page", ["client", "own-pair", "first-steps"])
def test_links_of_pages_lead_somewhere(page: str) -> None:
    links = set(re.findall(r"\]\(([^)#:]+)\)", Path(f"docs/{page}.md").read_text("utf-8")))
    assert [link for link in links if not Path("docs", link).exists()] == []


def test_the_clients_page_has_every_option_and_error() -> None:
    page = Path("docs/client.md").read_text("utf-8")
    options = {*inspect.signature(dreamr.AsyncClient.reason).parameters} - {"self", "question"}
    # Of files that gateways read, and clients do not.
    others = {"KeyFileError", "VersionFileError"}
    errors = {kind.__name__ for kind in dreamr.DreamrError.__subclasses__()} - others
    assert [name for name in sorted(options | errors) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("page", ["README.md", "docs/openai.md"])
def test_openai_clients_ask_where_up_serves_them(page: str) -> None:
    default = inspect.signature(up).parameters["http"].default
    asked = re.findall(r'base_url="http://([^/]+)/v1"', Path(page).read_text("utf-8"))
    assert set(asked) == {default}
