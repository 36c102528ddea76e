"""Run hostile cases under valgrind, and fail on every error with one of our frames.

python tools/valgrind.py [CASE ...]: without names, every third case. Valgrind reports
hundreds of errors of the interpreter itself; they need no suppressions here, since only
errors with a frame of _core*.so count. Memory that is still allocated at exit does not
count: the interpreter keeps strings and modules that it created for us, and leaks have
tests of their own. Where valgrind is not installed, the script says so and exits with
status 0.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EVERY = 3


def sample() -> list[str]:
    """Return every third case, so that all parts of the file are covered."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import support.hostile_cases  # noqa: F401
    from support.hostile import CASES

    return list(CASES)[::EVERY]


def reports(directory: Path) -> Iterator[ElementTree.Element]:
    """Yield every error with one of our frames; a report file may be cut short."""
    for path in sorted(directory.glob("*.xml")):
        try:
            root = ElementTree.parse(path).getroot()
        except ElementTree.ParseError:
            print(f"{path.name}: cut short")
            continue
        for error in root.iter("error"):
            if (error.findtext("kind") or "").startswith("Leak_"):
                continue  # an XML report always includes leaks
            if any("_core." in name for name in objects_of(error)):
                yield error


def objects_of(error: ElementTree.Element) -> Iterator[str]:
    """Yield the object files of an error's frames, innermost first.

    Frames that called the collector are left out: the interpreter's errors in it are
    not ours, even if our code has called the Python code that collects.
    """
    for frame in error.iter("frame"):
        if frame.findtext("fn") == "gc_collect_main":
            return
        yield frame.findtext("obj") or ""


def show(error: ElementTree.Element) -> None:
    """Print an error with the top of its stack."""
    what = error.findtext("what") or error.findtext("xwhat/text")
    print(f"\n{error.findtext('kind')}: {what}")
    for frame in list(error.iter("frame"))[:16]:
        place = frame.findtext("fn") or frame.findtext("obj")
        print(f"    {place} {frame.findtext('file') or ''}:{frame.findtext('line')}")


def main(cases: list[str]) -> int:
    """Run the cases (none: the sample); return the exit status."""
    if shutil.which("valgrind") is None:
        print("valgrind: not installed, nothing was run")
        return 0
    with tempfile.TemporaryDirectory() as made:
        directory = Path(made)
        command = ["valgrind", "--tool=memcheck", "--xml=yes", "--leak-check=no"]
        command += ["--num-callers=30", f"--xml-file={directory}/%p.xml"]
        command += [sys.executable, "-m", "support.hostile", "asyncio"]
        environment = os.environ | {
            "PYTHONMALLOC": "malloc",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "PYASYNCLIFE_SLOW": "1",
        }
        done = subprocess.run(
            [*command, *(cases or sample())],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        ours = list(reports(directory))
        files = len(list(directory.glob("*.xml")))
    for error in ours:
        show(error)
    ends = [json.loads(line) for line in done.stdout.splitlines()]
    wrong = [end for end in ends if end[1:] != [0, ""]]
    for name, code, said in wrong:
        print(f"\n{name}: exit status {code}\n{said}")
    print(
        f"valgrind: {len(ends)} cases, {files} processes, {len(ours)} errors of ours, "
        f"{len(wrong)} cases failed"
    )
    return int(bool(ours) or bool(wrong) or done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
