"""Some test of this run has made each allocation of the core fail.

conftest.py puts this module last. It is skipped when only a part of the suite runs.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyasynclife import _core
from support.c_source import GUARDS, Source, closing, core_sources, from_csrc

TESTS = Path(__file__).resolve().parents[1]
SWEEPS = {
    "batch/test_faults.py",
    "group/test_faults.py",
    "registry/test_faults.py",
    "signals/test_faults.py",
    "watch/test_faults.py",
}
# Functions whose allocation no test can make fail, and why.
OUT_OF_REACH: dict[str, str] = {}
if sys.version_info < (3, 13):
    OUT_OF_REACH["loop_proxy_set_name"] = "named later, before 3.13"


@dataclass
class Site:
    """The place of an AL_ALLOC."""

    file: str
    lines: range
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.lines.start} {self.function}"


def sites_of(source: Source) -> list[Site]:
    found = []
    for match in GUARDS.finditer(source.flat):
        first = source.line_of(match.start())
        last = source.line_of(closing(source.flat, match.end() - 1))
        around = [piece for piece in source.pieces if piece.line <= first]
        name = around[-1].name if around else ""
        found.append(Site(source.file, range(first, last + 1), name))
    return found


def all_sites() -> list[Site]:
    sources = [source for source in core_sources() if not source.stem.endswith("fault")]
    return [site for source in sources for site in sites_of(source)]


def test_no_two_sites_share_a_line() -> None:
    seen: set[tuple[str, int]] = set()
    for site in all_sites():
        lines = {(site.file, line) for line in site.lines}
        assert not lines & seen, site
        seen |= lines
    assert len(all_sites()) > 100


def test_every_site_was_made_to_fail(request: pytest.FixtureRequest) -> None:
    failed_allocations = getattr(_core, "failed_allocations", None)
    if failed_allocations is None:
        pytest.skip("no fault points")
    session = request.session
    ran = {item.path.relative_to(TESTS).as_posix() for item in session.items}
    if not ran >= SWEEPS or session.config.option.keyword:
        pytest.skip("only a part of the suite ran")
    failed = {(from_csrc(file), line) for file, line in failed_allocations()}
    missed = [
        site
        for site in all_sites()
        if not failed & {(site.file, line) for line in site.lines}
    ]
    unexplained = [site for site in missed if site.function not in OUT_OF_REACH]
    assert not unexplained, "\n".join(map(str, unexplained))
    assert {site.function for site in missed} == set(OUT_OF_REACH)
    sites = len(all_sites())
    print(f"fault sites: {sites}, made to fail: {sites - len(missed)}")
