"""The Jinja environment of every page: unknown names are errors, and lines that hold only a tag leave no blank line."""

from __future__ import annotations

from pathlib import Path

import jinja2


def environment(page: str, *, html: bool = False) -> jinja2.Environment:
    """An environment for the templates in the folder ``templates`` beside a module.

    Args:
        page: file of the module.
        html: whether the templates are HTML; only then are values escaped.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(page).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
        autoescape=html,
    )
