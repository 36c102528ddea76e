"""tools/archives.py: what is refused as a file of a release."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import archives

CORE = "pyasynclife/_core.so"
INFO = "pyasynclife-1.0.dist-info"
WHEEL = {
    "pyasynclife/__init__.py": b"",
    "pyasynclife/py.typed": b"",
    CORE: b"\x7fELF",
    f"{INFO}/METADATA": b"",
    f"{INFO}/licenses/LICENSE": b"",
}


def an_sdist(path: Path, names: list[str], clock: int = 0, mode: int = 0o644) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            member = tarfile.TarInfo(f"pyasynclife-1.0/{name}")
            member.size, member.mtime, member.mode = len(name), clock, mode
            member.uid, member.uname = clock, f"user{clock}"
            archive.addfile(member, io.BytesIO(name.encode()))
        link = tarfile.TarInfo("pyasynclife-1.0/link")
        link.type, link.linkname, link.mtime = tarfile.SYMTYPE, "setup.py", clock
        archive.addfile(link)
    return path


def a_wheel(path: Path, contents: dict[str, bytes]) -> Path:
    wheel = path / "pyasynclife-1.0-cp311-cp311-linux_x86_64.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return wheel


def test_sdists_of_the_same_files_become_the_same_bytes(tmp_path: Path) -> None:
    one = an_sdist(tmp_path / "one.tar.gz", ["setup.py", "README.md"], 1)
    two = an_sdist(tmp_path / "two.tar.gz", ["README.md", "setup.py"], 2, 0o600)
    for path in (one, two):
        archives.repack(path, 1_000_000)
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as archive:
        members = {m.name.partition("/")[2]: m for m in archive.getmembers()}
        assert list(members) == ["README.md", "link", "setup.py"]
        assert members["link"].linkname == "setup.py"
        assert {m.mtime for m in members.values()} == {1_000_000}
        data = archive.extractfile(members["setup.py"])
        assert data is not None
        assert data.read() == b"setup.py"


@pytest.mark.parametrize(
    ("tracked", "words"),
    [
        (["setup.py", "csrc/a.h"], r"leaves out \['csrc/a.h'\]"),
        (["setup.py"], r"takes \['secret'\]"),
    ],
)
def test_an_sdist_has_what_is_tracked_and_nothing_else(
    tmp_path: Path, tracked: list[str], words: str
) -> None:
    extra = [] if "csrc/a.h" in tracked else ["secret"]
    names = ["setup.py", "PKG-INFO", "pyasynclife.egg-info/SOURCES.txt"]
    good = an_sdist(tmp_path / "good.tar.gz", names)
    archives.check_sdist(good, ["setup.py", ".ci/run", ".gitignore"])
    bad = an_sdist(tmp_path / "bad.tar.gz", [*names, *extra])
    with pytest.raises(archives.NotFit, match=words):
        archives.check_sdist(bad, tracked)


def test_a_wheel_of_the_package_alone_is_fit(tmp_path: Path) -> None:
    archives.check_wheel(a_wheel(tmp_path, WHEEL), ["/home/somebody"])


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (WHEEL | {"tests/conftest.py": b""}, "contains tests/conftest.py"),
        (WHEEL | {"pyasynclife/core.c": b""}, r"contains pyasynclife/core\.c"),
        (WHEEL | {"pyasynclife/two.so": b""}, "contains the extensions"),
        ({n: d for n, d in WHEEL.items() if n != CORE}, r"the extensions \[\]"),
        ({n: d for n, d in WHEEL.items() if "LICENSE" not in n}, "not contain .*LICEN"),
        ({n: d for n, d in WHEEL.items() if "typed" not in n}, "not contain .*typed"),
        (WHEEL | {CORE: b"a/home/somebody/b"}, "contains the path /home/somebody"),
    ],
)
def test_any_other_wheel_is_refused(
    tmp_path: Path, contents: dict[str, bytes], words: str
) -> None:
    with pytest.raises(archives.NotFit, match=words):
        archives.check_wheel(a_wheel(tmp_path, contents), ["/home/somebody"])
