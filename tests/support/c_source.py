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
    paths = [CSRC / "README.md", *sorted(CSRC.rglob("*.[ch]"))]
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
        self.page = files["README.md"]
        self.sources = [
            Source(file, text) for file, text in files.items() if file != "README.md"
        ]

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
    def named(self) -> list[str]:
        """The files that the page's tables name: `batch/pump.c` `.h` is two."""
        named = []
        for line in self.page.splitlines():
            for cell in line.split("|")[1:-2]:
                first, *more = re.findall(r"`([\w/.]+)`", cell) or [""]
                if re.search(r"\.[ch]$", first):
                    stem = first.rpartition(".")[0]
                    named += [first, *(stem + end for end in more)]
        return named

    def slot(self, slot: str) -> set[str]:
        """The functions that stand in that slot of a type."""
        names: set[str] = set()
        for source in self.sources:
            pattern = rf"\{{\s*{slot}\s*,\s*(?:\(void \*\))?\s*(\w+)"
            names |= set(re.findall(pattern, source.flat))
        return names
