"""Put a study into params.yaml: `python -m stages.study NAME` copies studies/NAME.yaml into its `study` section.

Comments and every other section stay as they are, and the file is replaced in one step.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from spar_core.errors import SparError
from spar_core.settings import load_yaml, nearest, parse
from spar_core.study import Study
from stages.entry import stage_main
from stages.layout import Layout

SECTION = re.compile(r"^study:.*?(?=^\w|\Z)", re.MULTILINE | re.DOTALL)


def put_study(layout: Layout, name: str) -> None:
    """Replace the `study` section of params.yaml by studies/<name>.yaml.

    Raises:
        SparError: no such study, or it is not valid; params.yaml is untouched then.
    """
    path = layout.root / "studies" / f"{name}.yaml"
    if not path.is_file():
        known = [other.stem for other in path.parent.glob("*.yaml")]
        raise SparError(f"there is no study '{name}'", nearest(name, known))
    study = parse(Study, {"name": name, **load_yaml(path)}, str(path))
    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 110
    before = layout.params.read_text(encoding="utf-8")
    document = editor.load(before)
    section = document["study"]
    for key, value in study.model_dump(mode="json").items():
        if section.get(key) != value:
            section[key] = _on_one_line(value)
    dumped = io.StringIO()
    editor.dump(document, dumped)
    # Only the section's own text: the editor moves comments elsewhere that it has no reason to touch.
    text = SECTION.search(dumped.getvalue())
    assert text is not None
    after = SECTION.sub(lambda _: text[0], before, count=1)
    draft = layout.params.with_suffix(".yaml.draft")
    draft.write_text(after, encoding="utf-8")
    draft.replace(layout.params)


def _on_one_line(value: Any) -> Any:
    """Lists, and mappings of lists, in flow style."""
    if isinstance(value, dict):
        styled: CommentedMap | CommentedSeq = CommentedMap({key: _on_one_line(item) for key, item in value.items()})
    elif isinstance(value, list):
        styled = CommentedSeq(value)
    else:
        return value
    styled.fa.set_flow_style()
    return styled


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.study``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a file in studies/, without .yaml")
    put_study(Layout(), parser.parse_args(argv).name)


if __name__ == "__main__":
    sys.exit(stage_main(run))
