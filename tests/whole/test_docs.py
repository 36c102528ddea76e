"""Every Python block of the README and the docs runs as it stands."""

import ast
import importlib.util
import os
import re
from pathlib import Path

import pytest

from support.children import ROOT, run_child

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
]


def imported_by(block: str) -> set[str]:
    """The packages that a block imports."""
    names = set()
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_and_prints_no_error(block: str, tmp_path: Path) -> None:
    for name in sorted(imported_by(block)):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: an extra of pyproject.toml has it")
    script = tmp_path / "block.py"  # a process pool imports it again
    script.write_text(block)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    child = run_child([str(script)], timeout=60.0, env={"PYTHONPATH": path})
    assert child.returncode == 0, child.stderr
    assert child.stdout
    assert child.stderr == ""
