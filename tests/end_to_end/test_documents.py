"""Every file, folder and heading of this repository that README.md and docs/ name exists."""

import re

import pytest

from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = "onnxq|benchmarks|tests|docs|sample_models|calib_data"
GENERATED = re.compile(r"NAME|\.int8\.onnx$")
"""Paths that a reader makes."""
USERS = {"make_data.py", "my_data.py"}
"""Programs of the reader's own."""


def text_of(page):
    return page.read_text(encoding="utf-8")


def slug(heading):
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page):
    return {slug(line) for line in re.findall(r"^#+ (.+)$", text_of(page), flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page):
    paths = re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*[\w/]", text_of(page))
    missing = [path for path in paths if not GENERATED.search(path) and not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_programs_exist(page):
    known = {path.name for path in ROOT.glob("*/**/*.py") if ".venv" not in path.parts} | USERS
    named = re.findall(r"`([\w-]+\.py)`", text_of(page))
    assert [name for name in named if name not in known] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    links = [link for link in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text_of(page)) if "://" not in link]
    made = {f"gallery/{name}" for name in re.findall(r"--report (\S+\.html)", text_of(page))}
    for link in links:
        name, _, anchor = link.partition("#")
        if page.name == "gallery.md" and name in made:  # `make docs` makes it
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_paths_and_links_are_found():
    texts = [text_of(page) for page in PAGES]
    assert sum(len(re.findall(rf"`(?:{FOLDERS})/", text)) for text in texts) > 80
    assert sum(text.count("](") for text in texts) > 80


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda page: page.name
)
def test_pages_are_in_the_navigation_of_the_site(page):
    """The strict build of the site stops at a page that is not."""
    assert re.search(rf": {re.escape(page.name)}$", text_of(ROOT / "mkdocs.yml"), flags=re.MULTILINE)
