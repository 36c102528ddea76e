"""Every Python block of the README and the docs runs as it stands."""

import os
import re
from pathlib import Path

import pytest

from support.children import ROOT, run_child
from support.pages import PAGES, skip_unless_installed

BLOCKS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(
        re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    )
]


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_runs_and_prints_no_error(block: str, tmp_path: Path) -> None:
    skip_unless_installed(block)
    script = tmp_path / "block.py"  # a process pool imports it again
    script.write_text(block)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    for _ in range(3):  # on a machine that stalls, a watch reports a block
        child = run_child([str(script)], timeout=60.0, env={"PYTHONPATH": path})
        if child.returncode != 0 or not child.stderr:
            break
    assert child.returncode == 0, child.stderr
    assert child.stdout
    assert child.stderr == ""
