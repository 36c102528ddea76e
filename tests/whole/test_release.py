"""What a release says about itself: its version, extras, Pythons, and the workflow."""

import re
import tomllib
from pathlib import Path

import pytest

import pyasynclife
from support.children import ROOT, run_child

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md"), *ROOT.glob("docs/**/*.md")]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    heading = r"^## (\d+\.\d+\.\d+) - (unreleased|\d{4}-\d{2}-\d{2})$"
    headings = re.findall(heading, (ROOT / "CHANGELOG.md").read_text(), re.M)
    versions = [version for version, _ in headings]
    assert versions[0] == pyasynclife.__version__
    assert all(date != "unreleased" for _, date in headings[1:])
    assert len(versions) == len(set(versions))


def test_the_pages_name_each_extra_and_no_other() -> None:
    named: set[str] = set()
    for page in PAGES:
        for extras in re.findall(r"(?:pyasynclife|\.)\[([a-z,]+)\]", page.read_text()):
            named.update(extras.split(","))
    assert named == set(PROJECT["project"]["optional-dependencies"])


def test_messages_name_extras_that_exist() -> None:
    for file in (ROOT / "pyasynclife").rglob("*.py"):
        for extra in re.findall(r"pyasynclife\[(\w+)\]", file.read_text()):
            assert extra in PROJECT["project"]["optional-dependencies"], file


def test_wheels_are_built_for_the_versions_that_are_promised() -> None:
    prefix = "Programming Language :: Python :: 3."
    promised = [
        f"3.{line.removeprefix(prefix)}"
        for line in PROJECT["project"]["classifiers"]
        if line.startswith(prefix)
    ]
    built = PROJECT["tool"]["cibuildwheel"]["build"]
    assert built == [f"cp{version.replace('.', '')}-*" for version in promised]
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_an_installed_package_passes_the_smoke_test() -> None:
    child = run_child([str(ROOT / "tools/smoke.py")], timeout=150)
    assert (child.stderr, child.returncode) == ("", 0)
    assert child.stdout.startswith(f"pyasynclife {pyasynclife.__version__} works on ")


# An sdist has no workflows.
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_pins_each_action_to_a_commit(workflow: Path) -> None:
    used = re.findall(r"uses: (.*)", workflow.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action)
