"""The documentation site: it builds strictly, every link in it leads somewhere, and reading it fetches nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.fakes import ROOT


@dataclass
class Built(HTMLParser):
    """What a page of the site names: its anchors, its links, and what a browser loads with it."""

    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    tags: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids |= {given[key] for key in ("id", "name") if given.get(key)}
        self.links += [given[key] for key in ("href", "src") if given.get(key)]
        if tag in ("script", "img", "link"):
            self.loaded += [given[key] for key in ("href", "src") if given.get(key)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    words = ["build", "--strict", "--site-dir", folder]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", *words],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Built]:
    found = {}
    for path in site.rglob("*.html"):
        found[path] = Built()
        found[path].feed(path.read_text(encoding="utf-8"))
    return found


def test_every_link_leads_to_a_file_and_an_anchor(site, pages):
    broken = []
    # The page for addresses that do not exist names the site's own root.
    for path in pages.keys() - {site / "404.html"}:
        for link in pages[path].links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            if target.is_dir():
                target = target / "index.html"
            if not target.is_relative_to(site) or not target.is_file():
                broken.append(f"{path.relative_to(site)}: {link}: no such file")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                broken.append(f"{path.relative_to(site)}: {link}: no such anchor")
    assert not broken, broken


def test_the_readme_is_the_home_page_and_every_page_of_docs_is_in_the_navigation(site, pages):
    assert "Support-Preserving Action Rectification" in (site / "index.html").read_text(encoding="utf-8")
    listed = set(pages[site / "index.html"].links)
    wanted = {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")}
    wanted |= {
        path.relative_to(ROOT).with_suffix(".html").as_posix() for path in (ROOT / "reports").glob("*/report.md")
    }
    assert not (missing := sorted(wanted - listed)), f"mkdocs.yml, nav: {missing} are missing"


def test_formulas_are_mathml_and_nothing_is_fetched_from_elsewhere(site, pages):
    assert "math" in pages[site / "statistics.html"].tags and "math" in pages[site / "method.html"].tags
    for path, page in pages.items():
        assert "arithmatex" not in path.read_text(encoding="utf-8"), f"{path.name} has a formula that is not MathML"
        assert not [link for link in page.loaded if urlsplit(link).netloc], path


def test_the_search_finds_pages_of_docs_and_leaves_out_reports(site):
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {page.with_suffix(".html").name for page in (ROOT / "docs").glob("*.md")} <= places
    assert not [place for place in places if place.startswith("reports/")]
