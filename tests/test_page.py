"""A report's Markdown as one closed page: everything is in it, and HTML of others is text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from spar_core.reporting.page.page import Extra, Film, build_page, render_sections
from tests.fakes import ROOT

MARKDOWN = """# Study `small`

**Question.** Is `a` < b? <script>alert(1)</script> <img src=x onerror=alert(1)> <details> [x](javascript:alert(1))

## builtin/toy-v0

| rule | a wide column |
|---|--:|
| `anchor` | <b>1</b> |

![Mean return by rule](figures/returns.svg)

### Anchor `mlp`

<details><summary>Anchor <code>mlp</code>: <i>more</i></summary>

| rule | gain |
|---|--:|
| `awr` | 2 |

</details>

<script>alert(2)</script>

## Words

See [the docs](https://example.org/a?b=1&c=2).

### Anchor `mlp`

Last.
"""


class Reader(HTMLParser):
    """Tags, attributes and text of a page, and whether every tag is closed in its turn."""

    VOID = ("meta", "img", "br")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def check_closed(page: str) -> Reader:
    """The page parses, runs nothing and asks nobody for anything."""
    reader = Reader(page)
    assert not {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attrs in reader.tags:
        assert not [name for name in attrs if name.startswith("on") or name == "srcset"], (tag, attrs)
        if "src" in attrs:
            assert attrs["src"].startswith("data:image/"), attrs["src"][:80]
        assert not re.match(r"(javascript|vbscript|data|file):", attrs.get("href", "")), attrs
    assert "url(" not in page and "@import" not in page
    ids = [attrs["id"] for _, attrs in reader.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    inner = [attrs["href"][1:] for attrs in reader.named("a") if attrs["href"].startswith("#")]
    assert inner and set(inner) <= set(ids)
    return reader


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/returns.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><g id="a"/></svg>')
    return tmp_path


def test_the_page_is_closed_and_holds_the_figures_the_tables_and_the_details(folder):
    page = build_page(MARKDOWN, folder, ["builtin/toy-v0"], Extra())
    reader = check_closed(page)
    (figure,) = reader.named("img")
    assert figure["src"].startswith("data:image/svg+xml;base64,") and figure["alt"] == "Mean return by rule"
    assert page.count('<div class="wide" tabindex="0"><table>') == 2
    assert "<details><summary>Anchor <code>mlp</code>: &lt;i&gt;more&lt;/i&gt;</summary>" in page
    assert "Commit and machine" not in page and "Runs in MLflow" not in page
    assert "<title>Study small</title>" in page and "Content-Security-Policy" in page
    assert 'href="https://example.org/a?b=1&amp;c=2"' in page


def test_html_of_others_is_text(folder):
    reader = check_closed(build_page(MARKDOWN, folder, [], Extra()))
    for text in ("a < b? <script>alert(1)</script> <img src=x onerror=alert(1)> <details>", "<b>1</b>", "alert(2)"):
        assert text.replace("a < b", "a < b") in reader.words.replace("` ", "") or text in reader.words, text
    assert "[x](javascript:alert(1))" in reader.words


def test_the_contents_name_every_section_once(folder):
    first, toy, words = render_sections(MARKDOWN, folder)
    assert (first.title, toy.title, words.title) == ("", "builtin/toy-v0", "Words")
    assert toy.below == (("Anchor mlp", "anchor-mlp"),) and words.below == (("Anchor mlp", "anchor-mlp-2"),)
    assert "Is" in first.html and "Last." in words.html
    (alone,) = render_sections("No heading.", folder)
    assert alone.title == "" and "No heading." in build_page("No heading.", folder, [], Extra())


def test_a_figure_from_elsewhere_is_not_fetched(folder):
    (folder.parent / "secret.svg").write_text("<svg/>")
    for address in ("http://example.org/x.svg", "../secret.svg", str(folder.parent / "secret.svg"), "figures/no.svg"):
        page = build_page(f"![It is <here>]({address})\n\n## b", folder, [], Extra())
        reader = check_closed(page)
        assert reader.named("img") == [] and "Figure that is not there: It is <here>" in reader.words
        assert "secret" not in page


def test_films_follow_the_last_dataset(folder):
    film = Film("builtin/toy-v0", b"strip", b"moving", 'Frames "1" < 2', ("`anchor` <b>",))
    page = build_page(MARKDOWN, folder, ["builtin/toy-v0"], Extra(films=[film, Film("b", reason="no <screen>")]))
    reader = check_closed(page)
    assert page.index("Mean return by rule") < page.index('id="films"') < page.index('id="words"')
    assert [image["alt"] for image in reader.named("img")][1:] == ["The same episodes, moving.", 'Frames "1" < 2']
    assert "<code>anchor</code> &lt;b&gt;" in page and "No pictures: no <screen>." in reader.words


@pytest.mark.parametrize("report", sorted(ROOT.glob("reports/*/report.md")), ids=lambda path: path.parent.name)
def test_every_report_of_the_repository_makes_a_page(report):
    text = report.read_text()
    page = build_page(text, report.parent, [], Extra({"Commit": "none"}))
    sources = [image["src"] for image in check_closed(page).named("img")]
    assert len(sources) == text.count("](figures/") and len(page) < 8_000_000
    assert page.count("<details><summary>") == text.count("<details>") + 2, "and contents and versions"
