"""Build the sdist and the Linux wheels of this commit, check them, and try each out.

python tools/wheels.py [--only 3.11,3.14] [--twice] [--sdist] [--install]

Writes dist/. The sdist is made from a clean clone, each wheel from the sdist alone, by
setuptools on an interpreter of its version (tools/pythons.py finds it) and by the
compiler in the ziglang package, which links against the glibc that the wheel's tag
names. --twice does all of it again elsewhere, and compares every byte. --sdist makes
nothing but the sdist.
"""

import argparse
import dataclasses
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import debian_tree
from archives import NotFit, check_sdist, check_wheel, repack, sha256
from debian_tree import ROOT, Unavailable
from pythons import VERSIONS, Place
from release_places import (
    RELEASE,
    add_debian_headers,
    call,
    prepare_place,
    prepare_tools,
    prepare_zig,
    run,
)
from sbom import write_bill

GLIBC = "2.17"
TAG = f"manylinux_{GLIBC.replace('.', '_')}_x86_64"
DIST = ROOT / "dist"


def git(*arguments: str | Path) -> str:
    command = ["git", "-C", ROOT, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True
    ).stdout.strip()


def say(text: str) -> None:
    print(text, flush=True)


@dataclass
class Build:
    """One build of everything, in a directory of its own."""

    name: str
    epoch: int
    switches: Mapping[str, str]

    @property
    def directory(self) -> Path:
        return RELEASE / self.name

    @property
    def output(self) -> Path:
        return self.directory / "dist"

    def make_sdist(self) -> Path:
        """Make the sdist of the last commit."""
        shutil.rmtree(self.directory, ignore_errors=True)
        clone = self.directory / "clone"
        run("git", "clone", "--quiet", ROOT, clone)
        python = RELEASE / "tools/bin/python"
        build = ["-m", "build", "--sdist", "--no-isolation", "--outdir"]
        run(python, *build, self.output, clone, switches=self.switches)
        (sdist,) = self.output.glob("*.tar.gz")
        repack(sdist, self.epoch)
        check_sdist(sdist, git("ls-tree", "-r", "--name-only", "HEAD").splitlines())
        return sdist

    def make_wheel(self, place: Place, sdist: Path) -> Path:
        """Make the wheel of a version from the sdist, and check it."""
        shutil.rmtree(place.path / self.name, ignore_errors=True)
        with tarfile.open(sdist) as archive:
            archive.extractall(place.path / self.name, filter="data")
        name = sdist.name.removesuffix(".tar.gz")
        source = place.inside / self.name / name
        zig = prepare_zig(place)
        compiler = f"{zig / 'ziglang/zig'} cc -target x86_64-linux-gnu.{GLIBC}"
        flags = f"-O3 -DNDEBUG -fwrapv -g0 -ffile-prefix-map={source}=."
        if place.in_tree:
            flags += f" -I{add_debian_headers(place)}"
        switches = {
            **self.switches,
            "CC": compiler,
            "LDSHARED": f"{compiler} -shared",
            "CFLAGS": flags,
            "CPPFLAGS": "",
            "LDFLAGS": "",
            "ZIG_GLOBAL_CACHE_DIR": f"{place.inside / self.name}/cache",
            "ZIG_LOCAL_CACHE_DIR": f"{place.inside / self.name}/cache",
        }
        pip = ["-m", "pip", "wheel", "--no-deps", "--no-index", "--no-build-isolation"]
        target = place.inside / self.name / "wheel"
        call(place, *pip, "--wheel-dir", target, source, switches=switches)
        (made,) = (place.path / self.name / "wheel").glob("*.whl")
        path = f"{RELEASE / 'tools/bin'}{os.pathsep}{os.environ['PATH']}"
        repair = ["repair", "--plat", TAG, "--wheel-dir", str(place.path / self.name)]
        run(
            RELEASE / "tools/bin/auditwheel",
            *repair,
            made,
            switches={**self.switches, "PATH": path},
        )
        (wheel,) = (place.path / self.name).glob("*.whl")
        built_in = [str(source), str(place.inside), str(ROOT), str(Path.home()), "/tmp"]
        check_wheel(wheel, built_in)
        return Path(shutil.move(wheel, self.output))


def try_out(place: Place, wheel: Path) -> None:
    """Install a wheel into a bare venv outside the checkout, and run programs there."""
    where = debian_tree.on_host(Path("/tmp")) if place.in_tree else None
    with tempfile.TemporaryDirectory(dir=where) as temporary:
        path = Path(temporary)
        inside = path
        if place.in_tree:
            inside = Path("/") / path.relative_to(debian_tree.on_host(Path("/")))
        bare = dataclasses.replace(place, path=path, inside=inside)
        (path / "src").mkdir()
        for file in [ROOT / "tools/smoke.py", *ROOT.glob("tests/regrtest/*.py"), wheel]:
            shutil.copy(file, path / "src")
        call(bare, "-m", "venv", inside / "venv", switches={})
        pip = ["-m", "pip", "install", "--quiet", "--no-index"]
        call(bare, *pip, inside / "src" / wheel.name, switches={})
        call(bare, "smoke.py", switches={})
        log = RELEASE / f"{place.version}.log"
        say(f"  {log.read_text().splitlines()[-1]}")
        call(bare, "-m", "unittest", "discover", switches={})


def build_all(build: Build, places: Sequence[Place]) -> dict[str, str]:
    """Build and check the sdist and a wheel for each place; return their hashes."""
    sdist = build.make_sdist()
    say(f"{sdist.name}, from commit {git('rev-parse', '--short', 'HEAD')}")
    for place in places:
        began = time.monotonic()
        wheel = build.make_wheel(place, sdist)
        say(f"{wheel.name} ({time.monotonic() - began:.0f} s)")
        if build.name == "first":
            try_out(place, wheel)
    files = sorted(build.output.iterdir())
    run(RELEASE / "tools/bin/twine", "check", "--strict", *files)
    return {file.name: sha256(file) for file in files}


def publish(build: Build) -> None:
    """Fill dist/ with what was built, and the SBOM beside it."""
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.copytree(build.output, DIST)
    write_bill(DIST, build.epoch)


def main() -> int:
    """Build for the versions that the command line names; return the status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    versions = [version for version in sorted(VERSIONS) if not version.endswith("d")]
    parser.add_argument("--only", help="versions, with commas between")
    parser.add_argument("--twice", help="compare two builds", action="store_true")
    parser.add_argument("--sdist", help="no wheels", action="store_true")
    parser.add_argument(
        "--install", help="apt-get may install mmdebstrap", action="store_true"
    )
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else versions
    if unknown := set(wanted) - set(versions):
        parser.error(f"no such version: {', '.join(unknown)}; there are {versions}")
    os.umask(0o022)
    for switch in [name for name in os.environ if name.startswith("PYASYNCLIFE_")]:
        del os.environ[switch]
    RELEASE.mkdir(parents=True, exist_ok=True)
    if git("status", "--porcelain"):
        say("uncommitted changes are not in the files: they are made from the commit")
    epoch = int(git("log", "-1", "--format=%ct"))
    date = {"SOURCE_DATE_EPOCH": str(epoch)}
    first = Build("first", epoch, {**date, "TZ": "UTC", "PYTHONHASHSEED": "1"})
    other = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "2"}
    second = Build("the-second-elsewhere", epoch, {**date, **other})
    try:
        prepare_tools()
        places = [
            prepare_place(v, options.install) for v in wanted if not options.sdist
        ]
        hashes = build_all(first, places)
        if options.twice:
            again = build_all(second, places)
            for name in hashes:
                if hashes[name] != again[name]:
                    raise NotFit(f"{name}: two builds differ, see .matrix/release/")
            say(f"{len(hashes)} files, two builds: the same bytes")
    except (NotFit, Unavailable) as why:
        say(f"FAILED: {why}")
        return 1
    publish(first)
    for name, digest in hashes.items():
        say(f"{digest}  dist/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
