"""Put a study into params.yaml: `python -m stages.study NAME` copies studies/NAME.yaml into its `study` section.

Comments and every other section stay as they are, and the file is replaced in one step.
"""

from __future__ import annotations

import argparse
import io
import sys

from ruamel.yaml import YAML

from spar_core.errors import SparError
from spar_core.settings import load_yaml, nearest, parse
from spar_core.study import Study
from stages.entry import stage_main
from stages.layout import Layout


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
    document = editor.load(layout.params.read_text(encoding="utf-8"))
    section = document["study"]
    for key, value in study.model_dump(mode="json").items():
        if section.get(key) != value:
            section[key] = value
    text = io.StringIO()
    editor.dump(document, text)
    draft = layout.params.with_suffix(".yaml.draft")
    draft.write_text(text.getvalue(), encoding="utf-8")
    draft.replace(layout.params)


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.study``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a file in studies/, without .yaml")
    put_study(Layout(), parser.parse_args(argv).name)


if __name__ == "__main__":
    sys.exit(stage_main(run))
