"""Put a study into params.yaml: `python -m stages.study NAME` copies studies/NAME.yaml into its section `study`.

The section is the file's own text, comments included, with the keys that the file leaves out. Every other line of
params.yaml stays as it is, and params.yaml is replaced in one step.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from typing import Any

import yaml

from spar_core.effective import check
from spar_core.errors import SparError
from spar_core.settings import load_yaml, nearest
from stages.entry import stage_main
from stages.keeping import keep_policies
from stages.layout import Layout

# Its first line, which stays, and all indented lines below it, with what stands between them.
GAP = r"(?:[ \t]*\n|#.*\n)"
SECTION = re.compile(rf"^(study:.*\n)(?:[ \t]+\S.*\n|{GAP}(?={GAP}*[ \t]+\S))*", re.MULTILINE)
# What DVC or a reader needs to find in the section, where a study does not say it.
LEFT_OUT = {
    "question": '""',
    "also": "{anchors: [], improvements: []}",
    "estimated": "[]",
    "rounds": "[]",
    "diagnosed": "[]",
    "params": "{}",
}


def put_study(layout: Layout, name: str) -> None:
    """Replace the section `study` of params.yaml by studies/<name>.yaml.

    Raises:
        SparError: no such study, or it is not valid; params.yaml is untouched then.
    """
    path = layout.root / "studies" / f"{name}.yaml"
    if not path.is_file():
        known = [other.stem for other in path.parent.glob("*.yaml")]
        raise SparError(f"there is no study '{name}'", nearest(name, known))
    params, values = load_yaml(layout.params), load_yaml(path)
    check({**params, "study": {"name": name, **values}}, file=f"studies/{name}.yaml")
    text = path.read_text(encoding="utf-8")
    first_key = re.search(r"^[^#\s]", text, re.MULTILINE)
    assert first_key is not None
    given = {"name": name, **{key: yaml.safe_load(value) for key, value in LEFT_OUT.items()}}
    lines = ["" if "name" in values else f"name: {name}\n", text[first_key.start() :].rstrip() + "\n"]
    lines += [f"{key}: {value}\n" for key, value in LEFT_OUT.items() if key not in values]
    body = textwrap.indent("".join(lines), "  ")
    before = layout.params.read_text(encoding="utf-8")
    after = SECTION.sub(lambda found: found[1] + body, before, count=1)
    if not _says(after, {**params, "study": {**given, **values}}):
        raise SparError(f"studies/{name}.yaml does not fit into params.yaml", "write one 'key: value' a line")
    draft = layout.params.with_suffix(".yaml.draft")
    draft.write_text(after, encoding="utf-8")
    draft.replace(layout.params)


def _says(text: str, values: dict[str, Any]) -> bool:
    """Whether a text is YAML for these values."""
    try:
        return bool(yaml.safe_load(text) == values)
    except yaml.YAMLError:
        return False


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.study``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a file in studies/, without .yaml")
    put_study(Layout(), parser.parse_args(argv).name)
    keep_policies(Layout())


if __name__ == "__main__":
    sys.exit(stage_main(run))
