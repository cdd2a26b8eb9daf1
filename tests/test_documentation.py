"""Pages link to what exists and are in the navigation, new snippets run, public names are documented."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import rftt

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*DOCS.rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]
)
SOURCES = sorted((ROOT / "src" / "rftt").rglob("*.py"))
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation() -> None:
    navigation = set(re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert navigation == {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}


@pytest.mark.parametrize("name", ["index", "concepts", "from-the-paper-to-the-code"])
def test_snippets_run(name: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / f"{name}.md").read_text(), re.DOTALL)
    assert blocks
    names: dict[str, object] = {"__name__": "page"}
    for place, block in enumerate(blocks, start=1):
        exec(compile(block, f"{name}.md, snippet {place}", "exec"), names)


def test_public_names_have_docstrings() -> None:
    assert [name for name in rftt.__all__ if not (getattr(rftt, name).__doc__ or "").strip()] == []


def test_public_definitions_have_docstrings() -> None:
    missing = []
    for source in SOURCES:
        tree = ast.parse(source.read_text(encoding="utf-8"))
        for node in [tree, *tree.body]:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name.startswith("_"):
                continue
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if not text or (not text[0].isalnum() and text[0] not in "`\"':"):
                    missing.append(f"{source.relative_to(ROOT)}: {getattr(node, 'name', 'module')}")
    assert missing == []


def test_the_citation_has_the_version_of_the_package() -> None:
    assert f"\nversion: {rftt.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
