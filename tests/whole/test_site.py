"""The pages of the documentation as a whole; `make docs` builds the site from them."""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyasynclife.__main__ import build_parser
from support.children import ROOT

FILES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "*/README.md", "docs/**/*.md"]
PAGES = sorted(page for name in FILES for page in ROOT.glob(name))
REFERENCE = {page: page.read_text() for page in ROOT.glob("docs/reference/*.md")}
DIRECTIVES = [
    path
    for text in REFERENCE.values()
    for path in re.findall(r"^::: (\S+)", text, re.M)
]
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
ARTICLES = [
    "A Complete Guide to asyncio Task Lifecycle",
    "asyncio in Production: The Pitfalls Tutorials Never Cover",
]


def each_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        found.add(re.sub(r"[^\w\- ]", "", text).strip().lower().replace(" ", "-"))
    return found


def public_modules() -> Iterator[tuple[str, list[str] | None]]:
    """The public modules, each with its ``__all__``: read, since some need packages."""
    for file in sorted((ROOT / "pyasynclife").rglob("*.py")):
        path = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(path[:-1] if path[-1] == "__init__" else path)
        if "._" in name:
            continue
        names = None
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets) == "__all__":
                names = ast.literal_eval(node.value)
        yield name, names


def public_names() -> Iterator[str]:
    for module, names in public_modules():
        if names is not None:
            yield from (f"{module}.{name}" for name in names)
        elif module != "pyasynclife.contrib":  # it has nothing but modules
            yield f"{module}.*"


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_links_have_a_target_and_an_anchor(page: Path) -> None:
    for target, anchor in LINK.findall(prose(page)):
        if ":" in target:
            continue
        file = (page.parent / target) if target else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=each_page)
def test_a_page_that_speaks_of_the_articles_names_one(page: Path) -> None:
    text = prose(page)
    if re.search(r"\barticles?\b", text, re.IGNORECASE):
        assert any(title in " ".join(text.split()) for title in ARTICLES)
    if re.search(r"\b(the|our) seed\b|\*seed\*|`seed`", text, re.IGNORECASE):
        assert "benchmarks/seed.py" in text


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text()
    pages = [
        str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")
    ]
    assert [page for page in pages if f" {page}\n" not in navigation] == []


def test_every_public_name_is_in_the_reference() -> None:
    """A directive covers a name, with all its members, or a whole module."""
    names = list(public_names())
    assert len(names) > 40
    missing = [
        name
        for name in names
        if name not in DIRECTIVES and name.rpartition(".")[0] not in DIRECTIVES
    ]
    assert missing == []


def test_the_reference_leaves_out_no_member_and_names_nothing_else() -> None:
    public = {name.removesuffix(".*") for name in public_names()}
    modules = {name for name, _ in public_modules()}
    assert [path for path in DIRECTIVES if path not in public | modules] == []
    assert len(DIRECTIVES) == len(set(DIRECTIVES))
    assert not any("members:" in text for text in REFERENCE.values())


def test_every_command_and_option_is_in_the_reference() -> None:
    page = (ROOT / "docs/reference/command-line.md").read_text()
    parser = build_parser()
    commands = next(
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    assert sorted(sections) == sorted(commands)
    for name, command in commands.items():
        for action in command._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help"):
                    assert f"`{option}" in sections[name], f"{name} {option}"
