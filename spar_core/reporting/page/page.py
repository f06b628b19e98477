"""A report as one HTML page that opens without a network: the Markdown, its figures inlined, and further sections.

The page takes the sections of the Markdown as they are. HTML in the Markdown is shown as text, except for the few tags
that the report itself writes, since a question or a title may contain a ``<``.
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from spar_core.reporting.page import templating

TEMPLATE = "page.html.j2"
_MEDIA = {".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp"}
_TAGS = {"inline": ("code", "br", "sub", "sup"), "block": ("code", "details", "summary")}


@dataclass(frozen=True)
class Section:
    """A part of the page below a heading of the second level; the first part has no heading."""

    title: str
    anchor: str
    html: Markup
    below: tuple[tuple[str, str], ...] = ()  # title and anchor of its headings of the third level


@dataclass(frozen=True)
class Table:
    """Rows of plain text; ``numbers`` holds the indices of the columns that are aligned to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Film:
    """Two pictures of the policies on one dataset (a strip and a moving picture), or the reason why there are none."""

    dataset: str
    strip: bytes = b""
    moving: bytes = b""
    alt: str = ""
    sentences: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Extra:
    """The page's further sections: facts that change from run to run, which a reproducible file cannot hold."""

    facts: Mapping[str, str] = field(default_factory=dict)
    films: Sequence[Film] = ()
    runs: Sequence[Table] = ()
    runs_note: str = ""
    stages: Table | None = None
    cells: Table | None = None
    cost_notes: Sequence[str] = ()
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def build_page(markdown: str, folder: Path, datasets: Iterable[str], extra: Extra) -> str:
    """The whole page.

    Args:
        markdown: the text of ``report.md``.
        folder: the folder of ``report.md``, from which its figures are read.
        datasets: ids of the study's datasets; films follow the last section whose title is one of them.
        extra: the further sections; without facts there are none about commit, machine, runs and time.
    """
    sections = render_sections(markdown, folder)
    wanted = set(datasets)
    heads = [i for i, section in enumerate(sections) if section.title in wanted]
    split = (heads[-1] if heads else len(sections) - 1) + 1
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=_title(markdown),
            opening=sections[0],
            before=sections[1:split],
            after=sections[max(split, 1) :],
            extra=extra,
        )
    )


def render_sections(markdown: str, folder: Path) -> list[Section]:
    """The report in HTML, split at its headings of the second level."""
    parser = _parser()
    tokens = parser.parse(markdown)
    starts = [i for i, token in enumerate(tokens) if token.type == "heading_open" and token.tag == "h2"]
    taken: set[str] = set()
    for token, inline in itertools.pairwise(tokens):
        if token.type == "heading_open":
            token.attrSet("id", _free(_slug(_plain(inline)), taken))
    sections = []
    for start, end in zip([0, *starts], [*starts, len(tokens)], strict=True):
        part = tokens[start:end]
        headed = bool(starts) and start in starts
        html = parser.renderer.render(part, parser.options, {"folder": folder})
        below = tuple(
            (_plain(part[i + 1]), str(token.attrGet("id")))
            for i, token in enumerate(part)
            if token.type == "heading_open" and token.tag == "h3"
        )
        title = _plain(part[1]) if headed else ""
        sections.append(Section(title, str(part[0].attrGet("id")) if headed else "", Markup(html), below))
    return sections


def data_uri(data: bytes, suffix: str) -> str:
    """A file as a data URI. Two SVGs that are embedded as images cannot clash by equal element ids."""
    return f"data:{_MEDIA[suffix]};base64,{base64.b64encode(data).decode()}"


def _title(markdown: str) -> str:
    match = re.search(r"^# (.+)$", markdown, re.MULTILINE)
    return match[1].replace("`", "") if match else "Report"


def _parser() -> MarkdownIt:
    """CommonMark with tables. HTML is parsed too, so that the report's own tags can be told from other HTML."""
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    for rule, function in (
        ("html_inline", _html_inline),
        ("html_block", _html_block),
        ("image", _image),
        ("table_open", _table_open),
        ("table_close", _table_close),
    ):
        parser.add_render_rule(rule, function)
    return parser


def _allowed(text: str, tags: Iterable[str]) -> str:
    """Text with all HTML escaped, except for tags of the given names without attributes."""
    return re.sub(rf"&lt;(/?(?:{'|'.join(tags)}))&gt;", r"<\1>", str(escape(text)))


def _html_inline(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return _allowed(tokens[index].content, _TAGS["inline"])


def _html_block(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    content = tokens[index].content
    own = content.startswith("<details><summary>") or content.strip() == "</details>"
    return _allowed(content, _TAGS["block"]) if own else f"<p>{escape(content)}</p>\n"


def _table_open(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return '<div class="wide" tabindex="0"><table>\n'


def _table_close(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return "</table></div>\n"


def _image(self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A figure from the report's folder, inlined; for any other image, its description."""
    token = tokens[index]
    alt = escape(self.renderInlineAsText(token.children, options, env))
    path = Path(str(token.attrGet("src")))
    file = env["folder"] / path
    inside = not path.is_absolute() and ".." not in path.parts
    if not inside or path.suffix not in _MEDIA or not file.is_file():
        return f'<span class="missing">Figure that is not there: {alt}</span>'
    picture = f'<img class="figure" src="{data_uri(file.read_bytes(), path.suffix)}" alt="{alt}">'
    # The caption repeats the picture's alt text, so a screen reader skips it.
    return f'{picture}<span class="caption" aria-hidden="true">{alt}</span>'


def _plain(inline: Token) -> str:
    """The text of a heading without its marks."""
    return "".join(child.content for child in inline.children or ())


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"


def _free(slug: str, taken: set[str]) -> str:
    found, number = slug, 1
    while found in taken:
        number += 1
        found = f"{slug}-{number}"
    taken.add(found)
    return found


def _codes(text: str) -> Markup:
    """Plain text, with the parts between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _environment() -> jinja2.Environment:
    environment = templating.environment(__file__, html=True)
    environment.globals["data_uri"] = data_uri
    environment.filters["codes"] = _codes
    return environment
