"""Rows as plain text."""

from collections.abc import Iterable, Sequence

from benchmarks.figures import Ratio, Row

TIME_HEAD = (
    "time, ns per item", "n", "seed", "hand", "ours",
    "seed/ours", "target", "hand/ours", "target", "",
)  # fmt: skip
LIMIT_HEAD = ("limits", "n", "unit", "seed", "ours", "at most", "")
SHORT = "<-- SHORT"
RIVALS = {"seed", "hand"}


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _times(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else (
        f"{value:.2f}"
    )  # fmt: skip


def _ratio(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "-", "-"
    must = "-" if ratio.must is None else f"{ratio.must:,g}x"
    return f"{_times(ratio.best)} ({_times(ratio.median)})", must


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


def _time_line(row: Row) -> tuple[str, ...]:
    figures = (_number(row.figures.get(name)) for name in ("seed", "hand", "ours"))
    return (
        row.what,
        f"{row.n:,}",
        *figures,
        *_ratio(row.ratios.get("seed")),
        *_ratio(row.ratios.get("hand")),
        SHORT if row.short else "",
    )


def _limit_line(row: Row) -> tuple[str, ...]:
    seed, ours = row.figures.get("seed"), row.figures["ours"]
    mark = SHORT if row.short else ""
    limit = _number(row.limit)
    return (row.what, f"{row.n:,}", row.unit, _number(seed), _number(ours), limit, mark)


def _is_time(row: Row) -> bool:
    """Return whether the row belongs in the first table, against seed and hand."""
    return row.limit is None and row.unit == "ns" and row.ratios.keys() <= RIVALS


def _crowd_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Lay out rows of one name: a line for each contender, a column for each n."""
    first = rows[0]
    head = (f"{first.what}, {first.unit}", *(f"n = {row.n:,}" for row in rows))
    compared = len(rows) == 1 and bool(first.ratios)
    lines = [(*head, *(("/ours", "target") if compared else ()), "")]
    for name in dict.fromkeys(name for row in rows for name in row.figures):
        figures = [_number(row.figures.get(name)) for row in rows]
        ratio = _ratio(first.ratios.get(name)) if compared else ()
        short = name == "ours" and any(row.short for row in rows)
        lines.append((name, *figures, *ratio, SHORT if short else ""))
    return lines


def tables(rows: Sequence[Row]) -> list[list[tuple[str, ...]]]:
    """Return the rows of one loop as tables; the last cell of a line is the mark."""
    times = [_time_line(row) for row in rows if _is_time(row)]
    limits = [_limit_line(row) for row in rows if row.limit is not None]
    made = [[TIME_HEAD, *times]] if times else []
    if limits:
        made.append([LIMIT_HEAD, *limits])
    crowds = [row for row in rows if row.limit is None and not _is_time(row)]
    for what in dict.fromkeys(row.what for row in crowds):
        made.append(_crowd_lines([row for row in crowds if row.what == what]))
    return made


def render(rows: Sequence[Row]) -> str:
    """Return the tables of one loop as text, and how many rows miss their target."""
    parts = []
    for table in tables(rows):
        parts += ["", *_align(table)]
    short = sum(row.short for row in rows)
    parts += ["", f"{short} of {len(rows)} rows fall short" if short else
              f"all {len(rows)} rows reach their targets"]  # fmt: skip
    return "\n".join(parts)
