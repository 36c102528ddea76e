"""Rows as tables, and tables as plain text."""

from collections.abc import Iterable, Sequence

from benchmarks.contenders import HAND, OURS, SEED, STOCK, label
from benchmarks.figures import Ratio, Row

LIMIT_HEAD = (
    "limits", "items", "unit", "compared with", "pyasynclife", "at most", "",
)  # fmt: skip
SHORT = "below target"
RIVALS = (SEED, HAND, STOCK)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(value: float) -> str:
    """Return a ratio with about three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else (
        f"{value:.2f}"
    )  # fmt: skip


def _ratio(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "-", "-"
    must = "-" if ratio.must is None else f"{ratio.must:,g}x"
    return f"{times(ratio.best)} ({times(ratio.median)})", must


def _align(lines: Iterable[Sequence[str]]) -> list[str]:
    """Align the first column left and the others right; the mark comes last."""
    cells = list(lines)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    text = []
    for line in cells:
        middle = "  ".join(
            cell.rjust(width)
            for cell, width in zip(line[1:-1], widths[1:-1], strict=True)
        )
        text.append(f"{line[0].ljust(widths[0])}  {middle}  {line[-1]}".rstrip())
    text.insert(1, "-" * max(map(len, text)))
    return text


def _rivals(row: Row) -> tuple[str, ...]:
    """Return the rivals of a row of the first tables, () for any other row."""
    if row.limit is not None or row.unit != "ns" or not row.ratios.keys() <= {*RIVALS}:
        return ()
    return tuple(rival for rival in RIVALS if rival in row.ratios)


def _time_lines(rivals: Sequence[str], rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Lay out rows with the same rivals: a line for each row."""
    names = [*rivals, OURS]
    ratios = [
        head for rival in rivals for head in (f"faster than {label(rival)}", "target")
    ]
    lines = [("ns for one", "items", *map(label, names), *ratios, "")]
    for row in rows:
        figures = (_number(row.figures[name]) for name in names)
        cells = [cell for rival in rivals for cell in _ratio(row.ratios[rival])]
        mark = SHORT if row.short else ""
        lines.append((row.what, f"{row.n:,}", *figures, *cells, mark))
    return lines


def _limit_line(row: Row) -> tuple[str, ...]:
    rivals = [
        f"{label(name)}: {_number(figure)}"
        for name, figure in row.figures.items()
        if name != OURS
    ]
    figures = (", ".join(rivals) or "-", _number(row.figures[OURS]), _number(row.limit))
    return (row.what, f"{row.n:,}", row.unit, *figures, SHORT if row.short else "")


def _crowd_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Lay out rows of one name: a line for each contender, a column for each n."""
    first = rows[0]
    head = (f"{first.what}, {first.unit}", *(f"{row.n:,} items" for row in rows))
    compared = len(rows) == 1 and bool(first.ratios)
    more = ("pyasynclife is so many times better", "target") if compared else ()
    lines = [(*head, *more, "")]
    for name in dict.fromkeys(name for row in rows for name in row.figures):
        figures = [_number(row.figures.get(name)) for row in rows]
        ratio = _ratio(first.ratios.get(name)) if compared else ()
        short = name == OURS and any(row.short for row in rows)
        lines.append((label(name), *figures, *ratio, SHORT if short else ""))
    return lines


def tables(rows: Sequence[Row]) -> list[list[tuple[str, ...]]]:
    """Return the rows of one loop as tables; the last cell of a line is the mark."""
    made = []
    for rivals in dict.fromkeys(filter(None, map(_rivals, rows))):
        made.append(
            _time_lines(rivals, [row for row in rows if _rivals(row) == rivals])
        )
    limits = [_limit_line(row) for row in rows if row.limit is not None]
    if limits:
        made.append([LIMIT_HEAD, *limits])
    crowds = [row for row in rows if row.limit is None and not _rivals(row)]
    for what in dict.fromkeys(row.what for row in crowds):
        made.append(_crowd_lines([row for row in crowds if row.what == what]))
    return made


def render(rows: Sequence[Row]) -> str:
    """Return the tables of one loop as text, and how many rows miss their target."""
    parts = []
    for table in tables(rows):
        parts += ["", *_align(table)]
    short = sum(row.short for row in rows)
    parts += ["", f"{short} of {len(rows)} rows are below their targets" if short else
              f"all {len(rows)} rows reach their targets"]  # fmt: skip
    return "\n".join(parts)
