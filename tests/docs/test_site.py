"""The site, as it is built: what the search finds, and what needs no network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HANG_S

pytest.importorskip("sphinx_design", reason="the extra docs is not installed")

ROOT = Path(__file__).parents[2]
BUILT = ROOT / "docs" / "_build" / "html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What CI has built before the tests; otherwise pages whose code does not run."""
    if (BUILT / "searchindex.js").exists():
        return BUILT
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html"]
    subprocess.run(
        [*command, "-D", "plot_gallery=0", "docs", str(folder)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
        timeout=HANG_S,
    )
    return folder


def found(site: Path, query: str) -> list[str]:
    """The pages of a search, the best first: titles and index entries.

    By the rules of Sphinx's searchtools.js; a word in a page's text counts less there
    than any of these.
    """
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index: dict[str, Any] = json.loads(text[text.index("{") : text.rindex("}") + 1])
    scores: list[tuple[int, str]] = []
    for title, places in index["alltitles"].items():
        if query in title.lower() and len(query) >= len(title) / 2:
            for page, _ in places:
                own = index["titles"][page] == title
                score = round(15 * len(query) / len(title)) + own
                scores.append((score, index["docnames"][page]))
    for entry, places in index["indexentries"].items():
        if query in entry and len(query) >= len(entry) / 2:
            for page, _, is_main in places:
                if is_main:
                    score = round(100 * len(query) / len(entry))
                    scores.append((score, index["docnames"][page]))
    # What is below is less than a match in the text can be.
    return [page for score, page in sorted(scores, reverse=True) if score > 30]


@pytest.mark.parametrize(
    ("query", "page"),
    {
        "early stopping": "validation",
        "gpu": "faq",
        "overfitting": "how_to/12_my_loss_does_not_fall",
        "learning rate": "how_to/13_size_batch_and_rate",
        "missing values": "how_to/10_a_raw_table",
    }.items(),
)
def test_the_search_finds_the_right_page_first(site, query, page):
    assert found(site, query)[0] == page


def test_no_page_needs_the_network(site):
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|link)[^>]*(?:src|href)=\"(http[^\"]+)", page
        )
        assert not loaded, path


def test_formulas_are_drawn_by_the_browser(site):
    page = (site / "mathematics.html").read_text(encoding="utf-8")
    assert page.count("<math") > 20


@pytest.mark.parametrize("page", ["index", "concept", "how_to/14_tuning", "api"])
def test_the_list_of_all_pages_is_on_every_page(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    bar = text[text.index("All pages") :]
    for other in ("quickstart", "user_guide", "dask_guide", "development/index", "faq"):
        assert f"{other}.html" in bar or other == page


def test_the_copy_button_leaves_prompts_out(site):
    script = (site / "_static" / "copybutton.js").read_text(encoding="utf-8")
    assert r">>> |\\.\\.\\. |\\$ " in script
