"""MkDocs hook: README.md is the site's home, and every file of the repository that a page links to is on the site.

MkDocs reads pages from ``docs/`` alone, but the pages link to README.md, to reports and to code by their place in the
repository. A linked file has the same path on the site, without a leading ``docs/``; README.md is the home page.
Formulas become MathML here, which browsers draw without a script.
"""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"""(\]\(|(?:src|href)=")([^()\s"#]+)""")
FENCE = re.compile(r"^```.*?^```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL)
# Files that are shown as a page of code; other files are copied.
CODE = {".py": "python", ".yaml": "yaml", ".cff": "yaml", "": "text"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add README.md and, from page to page, every file outside ``docs/`` that a page links to."""
    waiting = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    seen = set(waiting)
    while waiting:
        path = waiting.pop()
        if not path.is_relative_to(DOCS):
            files.append(_file(path, config))
        if path.suffix == ".md":
            targets = {_target(path, link) for _, link in LINK.findall(FENCE.sub("", path.read_text("utf-8")))}
            new = sorted(target for target in targets - seen if target.is_file())
            seen.update(new)
            waiting.extend(new)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository into links between files of the site."""
    path = _source(page.file.src_uri)
    if path.is_relative_to(ROOT / "reports") or path.suffix in CODE:
        page.meta["search"] = {"exclude": True}

    def rewritten(match: re.Match[str]) -> str:
        target = _target(path, match[2])
        if path.suffix != ".md" or not target.is_file():
            return match[0]
        return match[1] + os.path.relpath(_site_path(target), Path(page.file.src_uri).parent)

    return LINK.sub(rewritten, markdown)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write the formulas of a page as MathML."""

    def mathml(match: re.Match[str]) -> str:
        return convert(html.unescape(match[2]), display="inline" if match[1] == "(" else "block")

    return FORMULA.sub(mathml, content)


def _target(page: Path, link: str) -> Path:
    """The file of the repository that a page's link names."""
    return Path(os.path.normpath(page.parent / link))


def _site_path(path: Path) -> str:
    """Where a file of the repository stands among the site's sources."""
    if path == ROOT / "README.md":
        return "index.md"
    name = path.relative_to(DOCS if path.is_relative_to(DOCS) else ROOT).as_posix()
    return f"{name}.md" if path.suffix in CODE else name


def _source(site_path: str) -> Path:
    """The file of the repository behind a path among the site's sources; the inverse of ``_site_path``."""
    if site_path == "index.md":
        return ROOT / "README.md"
    paths = (DOCS / site_path, ROOT / site_path, ROOT / site_path.removesuffix(".md"))
    return next(path for path in paths if path.is_file())


def _file(path: Path, config: MkDocsConfig) -> File:
    """A file outside ``docs/`` as MkDocs takes it: a page, a page of code, or a file to copy."""
    if path.suffix in CODE:
        code = f"# `{path.relative_to(ROOT)}`\n\n````{CODE[path.suffix]}\n{path.read_text('utf-8')}\n````\n"
        return File.generated(config, _site_path(path), content=code)
    return File.generated(config, _site_path(path), abs_src_path=str(path))
