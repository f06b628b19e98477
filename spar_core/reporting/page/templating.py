"""The Jinja environment of every page that is written: strict about names, and without the lines of its tags."""

from __future__ import annotations

from pathlib import Path

import jinja2


def environment(page: str, *, html: bool = False) -> jinja2.Environment:
    """Templates of the folder ``templates`` beside the module file ``page``; values are escaped in HTML alone."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(page).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not html,
        autoescape=html,
    )
