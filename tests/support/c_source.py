"""Reads the C core: its files, declarations, functions and guarded allocations."""

import os
import re
from bisect import bisect
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

CSRC = Path(__file__).resolve().parents[2] / "csrc"

GUARDS = re.compile(r"\bAL_ALLOC(_INT)?\(")


def blank(text: str) -> str:
    """The text with comments and literals overwritten, every place kept."""
    pattern = r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, _spaces, text, flags=re.DOTALL)


def blank_directives(code: str) -> str:
    return re.sub(r"^[ \t]*#(?:\\\n|[^\n])*", _spaces, code, flags=re.MULTILINE)


def _spaces(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])


def closing(code: str, opening: int) -> int:
    """Where the bracket that opens there closes."""
    depth = 0
    for match in re.compile(r"[(){}\[\]]").finditer(code, opening):
        depth += 1 if match[0] in "([{" else -1
        if depth == 0:
            return match.start()
    return len(code)


@dataclass
class Piece:
    """A declaration or definition at file scope."""

    file: str
    line: int
    comment: str  # the last one before it
    code: str  # comments, literals and directives blanked
    raw: str

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def is_function(self) -> bool:
        return self.code.endswith("}")

    @property
    def is_typedef(self) -> bool:
        return self.code.startswith("typedef")

    @property
    def is_prototype(self) -> bool:
        called = bool(self.name) and "=" not in self.code and "{" not in self.code
        return called and not self.is_typedef

    @property
    def is_static(self) -> bool:
        return bool(re.match(r"static\b", self.code))

    @property
    def name(self) -> str:
        """Of a function, or a macro's invocation."""
        found = re.match(r"[\w\s*]*?(\w+)\s*\(", self.code)
        return found[1] if found else ""

    @property
    def struct(self) -> str:
        """The name that a typedef gives to a struct with an object's head."""
        found = re.search(r"\}\s*(\w+)\s*;$", self.code)
        return found[1] if found and "PyObject_HEAD" in self.code else ""


class Source:
    """A file, by its path from csrc/ on."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.name = file.rpartition("/")[2]
        self.stem = file.rpartition(".")[0]
        self.code = blank(text)
        self.flat = blank_directives(self.code)

    def line_of(self, place: int) -> int:
        return bisect(self._ends, place) + 1

    @cached_property
    def _ends(self) -> list[int]:
        return [match.end() for match in re.finditer("\n", self.text)]

    @cached_property
    def pieces(self) -> list[Piece]:
        pieces, start, place = [], 0, 0
        while match := re.compile(r"[;({]").search(self.flat, place):
            place = match.start() + 1
            if match[0] != ";":
                place = closing(self.flat, match.start()) + 1
            before = self.flat[start : match.start()].rstrip()
            is_body = match[0] == "{" and before.endswith(")")
            if match[0] == ";" or is_body:
                pieces.append(self._piece(start, place))
                start = place
        return pieces

    def _piece(self, start: int, end: int) -> Piece:
        code = self.flat[start:end]
        begin = start + len(code) - len(code.lstrip())
        comments = re.findall(r"/\*.*?\*/", self.text[start:begin], re.DOTALL)
        return Piece(
            file=self.file,
            line=self.line_of(begin),
            comment=comments[-1] if comments else "",
            code=code.strip(),
            raw=self.text[begin:end],
        )


def core_files() -> dict[str, str]:
    """The text of every C file and of the page about them, by path from csrc/ on."""
    paths = [*CSRC.glob("*.md"), *sorted(CSRC.rglob("*.[ch]"))]
    return {path.relative_to(CSRC).as_posix(): path.read_text() for path in paths}


def core_sources() -> list[Source]:
    return Tree(core_files()).sources


def from_csrc(file: str) -> str:
    """A compiler's `__FILE__` by its path from csrc/ on."""
    parts = PurePath(os.path.normpath(file)).parts
    if "csrc" not in parts:
        return parts[-1]
    return "/".join(parts[len(parts) - parts[::-1].index("csrc") :])


class Tree:
    """All files, by path from csrc/ on, and the page with the table of them."""

    def __init__(self, files: dict[str, str]) -> None:
        self.page = "".join(
            text for file, text in files.items() if file.endswith(".md")
        )
        self.sources = [
            Source(file, text)
            for file, text in files.items()
            if not file.endswith(".md")
        ]

    def path_of(self, file: str, user: str = "") -> str:
        """The path of a file that the page, or a file that includes it, names.

        It may be given from csrc/ on, from its user's folder on, or, if no two files
        have the same, by its name alone; what is not there stays as it is.
        """
        there = {source.file for source in self.sources}
        beside = os.path.normpath(os.path.join(os.path.dirname(user), file))
        named = [path for path in sorted(there) if path.endswith(f"/{file}")]
        found = [path for path in (beside, file) if path in there]
        return (found or (named if len(named) == 1 else [file]))[0]

    def stem_of(self, name: str) -> str:
        """The path, without its suffix, of a header and source named alike."""
        stems = {source.stem for source in self.sources}
        named = [stem for stem in sorted(stems) if stem.endswith(f"/{name}")]
        return named[0] if name not in stems and len(named) == 1 else name

    @cached_property
    def pieces(self) -> list[Piece]:
        return [piece for source in self.sources for piece in source.pieces]

    @cached_property
    def functions(self) -> list[Piece]:
        return [piece for piece in self.pieces if piece.is_function]

    @cached_property
    def shared(self) -> list[Piece]:
        """Functions that a header hands out; `static inline` ones if ours by name."""
        return [
            piece
            for piece in self.pieces
            if piece.file.endswith(".h")
            and (piece.is_function or piece.is_prototype)
            and (not piece.is_static or piece.name.startswith("al_"))
        ]

    @cached_property
    def rows(self) -> list[tuple[str, str]]:
        """Layer and file, from the top of the table on."""
        rows, layer = [], ""
        for line in self.page.splitlines():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) < 4 or "`" not in cells[2]:
                continue
            layer = cells[1] or layer
            first, *more = re.findall(r"`([^`]+)`", cells[2])
            rows += [
                (layer, self.path_of(file))
                for file in (first, *(first.rpartition(".")[0] + end for end in more))
            ]
        return rows

    @cached_property
    def sideways(self) -> set[tuple[str, str]]:
        """Pairs of rooms of which the first may include the second."""
        found = re.search(r"^Sideways:(.*?)(\n\n|\Z)", self.page, re.M | re.DOTALL)
        pairs = set()
        for clause in (found[1] if found else "").split(","):
            users, _, used = clause.partition(" to ")
            pairs |= {
                (user, room)
                for user in map(self.stem_of, re.findall(r"`([\w/]+)`", users))
                for room in map(self.stem_of, re.findall(r"`([\w/]+)`", used))
            }
        return pairs

    def slot(self, slot: str) -> set[str]:
        """The functions that stand in that slot of a type."""
        names: set[str] = set()
        for source in self.sources:
            pattern = rf"\{{\s*{slot}\s*,\s*(?:\(void \*\))?\s*(\w+)"
            names |= set(re.findall(pattern, source.flat))
        return names
