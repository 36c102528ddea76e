"""Format csrc/ with clang-format: tools/format_c.py [--check]

clang-format packs a table of slots two rows to a line, and knows nothing of the lists
`#define TABLE(X) X(row) X(row)` and the structs made from them.  Each of these stands
between an "off" and an "on" comment while clang-format runs.
"""

import difflib
import re
import subprocess
import sys
from pathlib import Path

CSRC = Path(__file__).resolve().parent.parent / "csrc"
CLANG_FORMAT = Path(sys.executable).with_name("clang-format")  # extra "dev"
OFF, ON = "/* clang-format off */\n", "/* clang-format on */\n"
TABLE = re.compile(
    r"""^static\ [\w ]+\[\]\ =\ \{\n.*?^\};\n
      | ^typedef\ struct\ al_state\ \{\n.*?^\}\ al_state;\n
      | ^\#define\ \w+\(X\)[^\n]*\\\n(?:[^\n]*\\\n)*[^\n]*\n""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def formatted(path: Path) -> str:
    """The text of a C file as it should be."""
    text = TABLE.sub(lambda match: OFF + match[0] + ON, path.read_text())
    command = [CLANG_FORMAT, f"--assume-filename={path}"]
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.replace(OFF, "").replace(ON, "")


def main() -> int:
    check = "--check" in sys.argv[1:]
    differs = False
    for path in sorted(CSRC.rglob("*.[ch]")):
        old, new = path.read_text(), formatted(path)
        differs = differs or old != new
        if check:
            lines = difflib.unified_diff(
                old.splitlines(),
                new.splitlines(),
                f"{path.relative_to(CSRC)}",
                "formatted",
                n=1,
            )
            print("\n".join(lines), end="\n" if old != new else "")
        elif old != new:
            path.write_text(new)
    return int(check and differs)


if __name__ == "__main__":
    sys.exit(main())
