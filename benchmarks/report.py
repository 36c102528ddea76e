"""What a run measured: the facts about the run, and its rows by loop."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Row, row_from_dict

LOOPS = {"asyncio": "standard loop", "uvloop": "uvloop"}


@dataclass(frozen=True, slots=True)
class Report:
    """One run, on one build of Python."""

    where: Mapping[str, str]
    measured: Mapping[str, Sequence[Row]]  # by loop

    @property
    def python(self) -> str:
        return self.where["python"]

    @property
    def line(self) -> str:
        """All facts, in one line."""
        more = (
            f"{name} {fact}"
            for name, fact in self.where.items()
            if name not in ("python", "machine", "date")
        )
        day = self.where["date"].partition("T")[0]
        return ", ".join([self.python, *more, day, self.where["machine"]])

    def write(self, path: Path) -> None:
        rows = [
            {"loop": loop, **row.as_dict()}
            for loop, measured in self.measured.items()
            for row in measured
        ]
        path.write_text(json.dumps({**self.where, "rows": rows}, indent=1) + "\n")


def read_report(path: Path) -> Report:
    """Read what Report.write() wrote."""
    fields: dict[str, Any] = json.loads(path.read_text())
    measured: dict[str, list[Row]] = {}
    for row in fields.pop("rows"):
        measured.setdefault(row["loop"], []).append(row_from_dict(row))
    return Report(fields, measured)
