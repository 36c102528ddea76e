"""The pages of the documentation, and the programs in them."""

import ast
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from support.children import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r'^```(python title="[^"]+"|console)\n(.*?)^```$', re.M | re.S)


def skip_unless_installed(source: str, own: tuple[str, ...] = ()) -> None:
    """Skip the test if the source imports a package that is not installed."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    for name in sorted({name.partition(".")[0] for name in names} - set(own)):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: an extra of pyproject.toml has it")


class Session(NamedTuple):
    """A command of a page, the files that it runs with, and what it prints."""

    page: str
    files: dict[str, str]  # the newest version of each file, down to the command
    command: list[str]  # after "python"
    output: str  # as the page has it; a line ^C is a press of Ctrl-C


def _folder(page: Path) -> Path:
    """The pages of the tutorial share their files; any other page has its own."""
    return page.parent if page.parent.name == "start" else page


def _commands(console: str) -> list[tuple[list[str], str]]:
    found = []
    for part in re.split(r"^\$ ", console, flags=re.M)[1:]:
        command, _, output = part.partition("\n")
        found.append((command.split(), output))
    return found


def sessions() -> tuple[list[Session], list[tuple[str, str]]]:
    """The sessions of all pages, and the files that no session runs."""
    found: list[Session] = []
    files: dict[Path, dict[str, str]] = {}
    unused: dict[tuple[str, str], None] = {}
    for page in PAGES:
        own = files.setdefault(_folder(page), {})
        for kind, text in FENCE.findall(page.read_text()):
            if kind != "console":
                name = kind.split('"')[1]
                own[name] = text
                unused[page.name, name] = None
                continue
            for command, output in _commands(text):
                if command[:2] not in (["python", name] for name in [*own, "-m"]):
                    continue
                if command[1] == "-m" and (command[2] != "pytest" or not own):
                    continue
                found.append(Session(page.name, dict(own), command[1:], output))
                unused = {key: None for key in unused if key[1] not in own}
    return found, list(unused)
