"""Hooks of MkDocs: the pages of the repository's root, and the reports of docs/gallery.py, join the site.

README.md, CHANGELOG.md and CONTRIBUTING.md stay where GitHub shows them; their links, and links to them, are
written for the repository and are changed here.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root."""
    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_links(text, from_root=True)))
    for report in sorted((ROOT / "build" / "gallery").glob("*.html")):
        content = report.read_text(encoding="utf-8")
        files.append(File.generated(config, f"gallery/{report.name}", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page of docs/ to pages of the root."""
    return markdown if page.file.src_uri in PAGES.values() else _with_links(markdown, from_root=False)


def _with_links(text: str, *, from_root: bool) -> str:
    """Point links at the pages of the site."""

    def target(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        name = path.removeprefix("docs/") if from_root else path.removeprefix("../")
        if from_root or path.startswith("../"):
            name = PAGES.get(name, name)
        return f"]({name}{anchor})"

    return LINK.sub(target, text)
