"""Look into the files of a release, and make them the same each time they are built."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

# Tracked files that no sdist needs.
NOT_SHIPPED = (".ci/", ".github/", ".gitignore")
# Made by setuptools.
GENERATED = ("PKG-INFO", "setup.cfg", "pyasynclife.egg-info/")


class NotFit(Exception):
    """A file must not be released; the message says why."""


def repack(sdist: Path, epoch: int) -> None:
    """Sort an sdist, and take clock, user and umask out of it.

    setuptools does the same for wheels, if SOURCE_DATE_EPOCH is set.
    """
    packed = io.BytesIO()
    with (
        tarfile.open(sdist) as old,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            fresh = tarfile.TarInfo(member.name)
            fresh.type, fresh.linkname = member.type, member.linkname
            fresh.size, fresh.mtime = member.size, epoch
            runs = member.isdir() or member.mode & 0o100
            fresh.mode = 0o755 if runs else 0o644
            new.addfile(fresh, old.extractfile(member))
    with sdist.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=epoch) as out:
        out.write(packed.getvalue())


def check_sdist(sdist: Path, tracked: Collection[str]) -> None:
    """Raise NotFit unless the sdist has the tracked files, and nothing else."""
    with tarfile.open(sdist) as archive:
        names = {m.name.partition("/")[2] for m in archive.getmembers() if m.isfile()}
    found = {name for name in names if not name.startswith(GENERATED)}
    wanted = {name for name in tracked if not name.startswith(NOT_SHIPPED)}
    if found != wanted:
        raise NotFit(
            f"{sdist.name}: MANIFEST.in leaves out {sorted(wanted - found)} and "
            f"takes {sorted(found - wanted)}"
        )


def check_wheel(wheel: Path, paths: Sequence[str]) -> None:
    """Raise NotFit unless the wheel has the package alone.

    paths: The places where it was built, of which none may be in the extension.
    """
    with zipfile.ZipFile(wheel) as archive:
        files = [info.filename for info in archive.infolist() if not info.is_dir()]
        contents = {name: archive.read(name) for name in files}
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info/"
    package = {name for name in contents if not name.startswith(info)}
    endings = {".py", ".pyi", ".so", ".typed"}
    for name in package:
        path = PurePosixPath(name)
        if path.parts[0] != "pyasynclife" or path.suffix not in endings:
            raise NotFit(f"{wheel.name} contains {name}")
    extensions = [name for name in package if name.endswith(".so")]
    if len(extensions) != 1:
        raise NotFit(f"{wheel.name} contains the extensions {extensions}")
    for name in (f"{info}licenses/LICENSE", f"{info}METADATA", "pyasynclife/py.typed"):
        if name not in contents:
            raise NotFit(f"{wheel.name} does not contain {name}")
    for place in paths:
        if place.encode() in contents[extensions[0]]:
            raise NotFit(f"{extensions[0]} in {wheel.name} contains the path {place}")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
