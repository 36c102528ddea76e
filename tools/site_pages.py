"""A hook of MkDocs: pages of the repository outside docs/, and the links to them.

A link in a page is relative to the file, so that it works on a code host. These pages
have another place in the site; there, their links and those to them are rewritten.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {
    "CHANGELOG.md": "start/changelog.md",
    "CONTRIBUTING.md": "internals/contributing.md",
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks/programs.md",
    "csrc/README.md": "internals/csrc.md",
    "examples/README.md": "start/examples.md",
}
"""Files of the repository, and their places in the site."""

LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def site_path(path: str) -> str | None:
    """Return where a file of the repository is in the site, or None."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("examples/") and path.endswith(".py"):
        return f"start/{path.removesuffix('.py')}.md"
    return None


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and one for each example, which has its code."""
    for path, place in OUTSIDE.items():
        if (ROOT / path).exists() and files.get_file_from_path(place) is None:
            text = (ROOT / path).read_text()
            files.append(File.generated(config, place, content=text))
    for example in sorted((ROOT / "examples").glob("*.py")):
        text = f"# {example.name}\n\n```python\n{example.read_text()}```\n"
        place = f"start/examples/{example.stem}.md"
        hidden = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, place, content=text, inclusion=hidden))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links of the site."""
    here = page.file.src_uri
    origin = next((path for path, place in OUTSIDE.items() if place == here), None)
    if origin is None or (ROOT / "docs" / here).exists():
        origin = f"docs/{here}"

    def rewritten(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        if ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))
        place = site_path(f"{path}/README.md" if (ROOT / path).is_dir() else path)
        if place is None:
            return match[0]  # MkDocs warns of it
        return f"]({posixpath.relpath(place, posixpath.dirname(here))}{anchor})"

    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(rewritten, part) for part in parts[::2]]
    return "".join(parts)
