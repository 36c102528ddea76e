"""Run a sample of hostile cases under valgrind; what names a frame of ours fails.

python tools/valgrind.py [CASE ...]. The interpreter itself has hundreds of complaints
and needs no suppressions here: only errors with a frame of _core*.so count. Says so,
and ends well, where valgrind is not there.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = [
    "register of a coroutine that swallows its own cancels",
    "gather of a coroutine that yields itself",
    "group of a coroutine that raises a group",
    "register where the task factory gives an error",
    "a source that awaits its own batch",
    "results that use the registry when the history drops them",
    "results that use the batch when it drops them",
    "children that start children while they are cancelled",
    "the module executed twice and dropped",
    "a second __init__ of all, in the middle",
    "a batch driven by hand, and wrongly",
    "an exit with a cycle of everything",
]


def reports(directory: Path) -> Iterator[ElementTree.Element]:
    """Every error that names a frame of ours; a file may end in the middle."""
    for path in sorted(directory.glob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError:
            print(f"{path.name}: cut short")
            continue
        for error in root.iter("error"):
            objects = [frame.findtext("obj") or "" for frame in error.iter("frame")]
            if any("_core." in name for name in objects):
                yield error


def show(error: ElementTree.Element) -> None:
    what = error.findtext("what") or error.findtext("xwhat/text")
    print(f"\n{error.findtext('kind')}: {what}")
    for frame in list(error.iter("frame"))[:16]:
        place = frame.findtext("fn") or frame.findtext("obj")
        print(f"    {place} {frame.findtext('file') or ''}:{frame.findtext('line')}")


def main(cases: list[str]) -> int:
    if shutil.which("valgrind") is None:
        print("valgrind: not here, not run")
        return 0
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        command = ["valgrind", "--tool=memcheck", "--xml=yes", "--leak-check=no"]
        command += ["--num-callers=30", f"--xml-file={directory}/%p.xml"]
        command += [sys.executable, str(ROOT / "tests/hostile.py"), "asyncio"]
        environment = os.environ | {
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": str(ROOT),
            "PYASYNCLIFE_SLOW": "1",
        }
        done = subprocess.run(
            [*command, *(cases or SAMPLE)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        print(done.stdout)
        ours = list(reports(directory))
        files = len(list(directory.glob("*.xml")))
    for error in ours:
        show(error)
    wrong = sum(", 0, " not in line for line in done.stdout.splitlines())
    print(
        f"valgrind: {files} processes, {len(ours)} errors of ours, {wrong} cases failed"
    )
    return int(bool(ours) or wrong > 0 or done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
