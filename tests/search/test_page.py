"""The page of a tree shows what the tree holds, whatever its texts hold, and loads nothing."""

from __future__ import annotations

import colorsys
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import image

from rftt import SearchTree, Step
from rftt.search.view.colors import colors
from rftt.search.view.page import page, save_page
from tests.search.trees import HOSTILE, grown


class _Reader(HTMLParser):
    """The tags of a page, and the text in each script."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script":
            self.scripts[-1] += data


def _read(source: str) -> _Reader:
    reader = _Reader()
    reader.feed(source)
    reader.close()
    return reader


@given(st.lists(st.text(st.characters()) | st.sampled_from(HOSTILE), min_size=1, max_size=4))
def test_no_text_leaves_the_data(texts: list[str]) -> None:
    tree = grown(texts)
    plain, hostile = _read(page(grown(["plain"] * len(texts)))), _read(page(tree))
    assert hostile.tags == plain.tags
    assert hostile.scripts[1] == plain.scripts[1]
    data = json.loads(hostile.scripts[0])
    assert data["text"] == [tree.text(node) for node in range(len(tree))]
    assert data["function"] == [s and s.function for s in tree.step]
    assert [v and v["answer"] for v in data["verdict"]] == [v and v.answer for v in tree.verdict]
    for name in ("parent", "visits", "ended", "value_count", "exhausted"):
        assert data[name] == list(getattr(tree, name))
    assert data["truncated"] == [s is not None and s.truncated for s in tree.step]
    assert data["actions"] == [sum(s.action_mask) if s else 0 for s in tree.step]
    assert data["value"] == [tree.value(node) for node in range(len(tree))]


def test_the_page_loads_nothing() -> None:
    source = page(grown(["plain"]))
    assert "default-src 'none'" in source
    assert not re.search(r"https?:|//[a-z]|url\(|@import|\bsrc=|<link", source)


def test_text_that_has_no_utf8_and_figures_that_have_no_json_can_be_saved(tmp_path: Path) -> None:
    tree = grown(["broken \ud800 bytes", "fine"])
    tree.value_sum[0] = float("nan")
    tree.value_sum[3] = float("inf")
    save_page(tmp_path / "tree.html", tree)
    data = json.loads(_read((tmp_path / "tree.html").read_text(encoding="utf-8")).scripts[0])
    assert data["text"][1] == "broken \ud800 bytes"
    assert (data["value"][0], data["value"][3]) == ("nan", "inf")


# The page in a browser

_CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
in_chromium = pytest.mark.skipif(
    _CHROMIUM is None, reason="there is no Chromium on the PATH to open the page in"
)


def _chromium(tmp_path: Path, *arguments: str) -> str:
    assert _CHROMIUM is not None
    done = subprocess.run(
        [
            _CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--window-size=1400,900", "--virtual-time-budget=2000",
            f"--user-data-dir={tmp_path / 'profile'}", *arguments,
        ],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.decode("utf-8")


class _Rows(HTMLParser):
    """The rows of a page that was drawn: for each node, the text in each named part of its row."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, str]] = {}
        self.folded: set[int] = set()
        self.node = -1
        self.part: list[str] = []
        self.seen = ""
        self.is_seen = True

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.is_seen = tag not in {"script", "style"}
        given = dict(attrs)
        if given.get("data-node"):
            self.node = int(given["data-node"] or -1)
            self.rows[self.node] = {}
            if given.get("aria-expanded") == "false":
                self.folded.add(self.node)
        elif tag == "section" or tag == "aside":
            self.node = -1
        if tag == "span":
            self.part.append((given.get("class") or "").split(" ")[0])

    def handle_endtag(self, tag: str) -> None:
        self.is_seen = True
        if tag == "span":
            self.part.pop()

    def handle_data(self, data: str) -> None:
        self.seen += data if self.is_seen else ""
        if self.node >= 0 and self.part:
            row = self.rows[self.node]
            row[self.part[-1]] = row.get(self.part[-1], "") + data


def _drawn(tmp_path: Path, path: Path, place: str = "") -> _Rows:
    rows = _Rows()
    rows.feed(_chromium(tmp_path, "--dump-dom", path.as_uri() + place))
    rows.close()
    return rows


def _check_rows(tree: SearchTree, rows: _Rows) -> None:
    for node, row in rows.rows.items():
        step, value, verdict = tree.step[node], tree.value(node), tree.verdict[node]
        assert row["function"] == (step.function if step else "question")
        assert row.get("text", "") == tree.text(node)
        assert row["visits"] == str(tree.visits[node])
        assert (row["value"] == "\u2013") if value is None else abs(float(row["value"]) - value) < 0.006
        if verdict is not None:
            assert row["end"] == (
                verdict.answer or ("truncated" if step and step.truncated else "no answer")
            )
            assert ("score" in row) == (verdict.score is not None)


@in_chromium
def test_a_tree_page_opened_in_headless_chromium_shows_what_the_tree_holds(tmp_path: Path) -> None:
    tree = grown(list(HOSTILE))
    path = tmp_path / "tree.html"
    save_page(path, tree)
    rows = _drawn(tmp_path, path)
    assert sorted(rows.rows) == list(range(len(tree)))
    assert not rows.folded
    _check_rows(tree, rows)
    assert rows.seen.strip().startswith("p </title>: What? a")
    for name in tree.grammar.functions:
        assert name in rows.seen
    assert "truncated1 rollout" in rows.seen
    for answer in (verdict.answer for verdict in tree.verdict if verdict and verdict.answer):
        assert f"{answer}1 rollout" in rows.seen


@in_chromium
def test_an_address_can_name_a_step(tmp_path: Path) -> None:
    tree = grown(["one", "two", "three"])
    save_page(tmp_path / "tree.html", tree)
    seen = _drawn(tmp_path, tmp_path / "tree.html", "#3").seen
    panel = seen[seen.index("Path to step 3") :]
    assert "analysis1 visit1.00twobeside it" in panel
    assert "next_step 90.5%subquestion 9.1%direct_answer 0.0%" in panel
    assert "1 token, 1 sampled by the policy" in panel


@in_chromium
def test_a_tree_page_is_in_colour(tmp_path: Path) -> None:
    tree = grown(["a", "b"])
    save_page(tmp_path / "tree.html", tree)
    picture = tmp_path / "tree.png"
    _chromium(
        tmp_path, f"--screenshot={picture}", "--blink-settings=preferredColorScheme=1",
        (tmp_path / "tree.html").as_uri(),
    )  # fmt: skip
    pixels = image.imread(picture)[..., :3].reshape(-1, 3)
    for function in ("analysis", "next_step"):
        fill = colorsys.hls_to_rgb(colors(tree.grammar)[function] / 360, 0.91, 0.80)
        assert (abs(pixels - fill).max(axis=1) < 0.02).sum() > 200, function


@in_chromium
def test_a_large_tree_is_folded_and_can_be_unfolded(tmp_path: Path) -> None:
    tree = grown([f"text {number}" for number in range(120)])
    for node in range(1, 240, 2):
        for _ in range(10):
            tree.attach(node, Step("subquestion", "more", [1], [0.0], [True], False))
    save_page(tmp_path / "tree.html", tree)
    rows = _drawn(tmp_path, tmp_path / "tree.html")
    assert 100 < len(rows.rows) < 300 < len(tree)
    assert rows.folded
    _check_rows(tree, rows)
    # A click, by a script that the page's own policy would not let in.
    unfolded = re.sub(r"<meta http-equiv[^>]*>", "", page(tree)).replace(
        "</body>", "<script>document.getElementById('unfold').click()</script></body>"
    )
    (tmp_path / "unfolded.html").write_text(unfolded, encoding="utf-8")
    rows = _drawn(tmp_path, tmp_path / "unfolded.html")
    assert sorted(rows.rows) == list(range(len(tree)))
    assert not rows.folded
    _check_rows(tree, rows)
