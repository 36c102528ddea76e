"""Draw docs/live-table.svg: a frame of the demo, as a real run shows it in a terminal.

    python tools/demo_picture.py [SECONDS] [FILE]

Prints the line for programs at the end of that run, for its figures.
"""

import html
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

COMMAND = "python -m pyasynclife demo"
ROWS, COLUMNS = 24, 80
FONTS = "DejaVu Sans Mono, Menlo, Consolas, monospace"
PICTURE = Path(__file__).parents[1] / "docs" / "live-table.svg"
NBSP = "\xa0"
CHARACTER = 12.2  # width of a character in the picture
ELEMENT = re.compile(
    r'(<text class="demo-r\d+" x=")([\d.]+)(" y="[\d.]+" textLength=")[\d.]+("[^>]*>)'
    r"([^<]*)</text>"
)
MOVES = re.compile(r"\x1b\[(?:\d*[A-HJK]|\?25[hl])|\r")


def run_in_terminal(seconds: float) -> str:
    """Return what the demo writes on a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (ROWS, COLUMNS))
    output = b""
    with subprocess.Popen(
        [sys.executable, *COMMAND.split()[1:], "--seconds", str(seconds)],
        stdin=theirs,
        stdout=theirs,
        env=os.environ | {"TERM": "xterm-256color"},
    ):
        os.close(theirs)
        try:
            while piece := os.read(ours, 65536):
                output += piece
        except OSError:  # the demo has ended
            pass
    os.close(ours)
    return output.decode()


def last_screen(output: str) -> list[str]:
    """Return the lines of the terminal with the last table, before the report."""
    live = re.search(r"\d+ subscriptions are live", output)
    assert live is not None
    frame = output[output.rindex("market feed, ") :]
    title, *lines = MOVES.sub("", frame[: frame.index("┘") + 1]).split("\n")
    escaped = re.search(r"((?:\x1b\[[\d;]*m)* *)$", output[: output.rindex(title[:12])])
    assert escaped is not None
    return [f"$ {COMMAND}", live[0], escaped[1] + title, *lines]


def place_words(text: re.Match[str]) -> str:
    """Return a text of the picture as one element for each part between two gaps.

    Some viewers, librsvg among them, shorten the gaps and ignore `textLength`.
    """
    start, x, middle, end, content = text.groups()
    words = []
    for word in re.finditer(r"\S+(?: \S+)*", html.unescape(content).replace(NBSP, " ")):
        place = f"{float(x) + CHARACTER * word.start():g}"
        length = f"{CHARACTER * len(word[0]):g}"
        shown = html.escape(word[0]).replace(" ", NBSP)
        words.append(f"{start}{place}{middle}{length}{end}{shown}</text>")
    return "".join(words)


def draw(lines: list[str], file: Path) -> None:
    """Write the lines as a picture of a terminal, without fonts of other sites."""
    with open(os.devnull, "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere)
        for line in lines:
            console.print(Text.from_ansi(line), no_wrap=True)
    form = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    form = form.replace("Fira Code, monospace", FONTS)
    form = form.replace('class="rich-terminal"', 'class="rich-terminal" role="img"')
    svg = console.export_svg(title=COMMAND, code_format=form, unique_id="demo")
    svg = ELEMENT.sub(place_words, svg)
    file.write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


def main() -> None:
    """Run the demo and draw its last table."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    output = run_in_terminal(seconds)
    draw(last_screen(output), Path(sys.argv[2]) if len(sys.argv) > 2 else PICTURE)
    print(output.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
