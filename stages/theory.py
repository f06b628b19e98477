"""Measure one geometric claim on synthetic problems: ``python -m stages.theory --claim order``.

Reads theory.yaml, and no artifact. Writes reports/theory/<claim>/: ``result.json``,
``table.csv`` and ``figure.svg``.
"""

from __future__ import annotations

import argparse
import sys

from spar_core.artifacts import new_artifact
from spar_core.errors import SparError
from spar_core.settings import load_yaml, nearest, parse
from spar_core.theory.claim import run_claim
from spar_core.theory.claims import CLAIMS, load_claim
from spar_core.theory.settings import TheorySettings
from stages.entry import stage_main, workers
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.theory``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claim", required=True, help=f"one of {', '.join(CLAIMS)}")
    name = parser.parse_args(argv).claim
    if name not in CLAIMS:
        raise SparError(f"there is no claim '{name}'", nearest(name, list(CLAIMS)))
    layout = Layout()
    settings = parse(TheorySettings, load_yaml(layout.theory_params), "theory.yaml")
    outcome = run_claim(load_claim(name), settings, workers())
    with new_artifact(layout.theory(name)) as draft:
        for file, data in outcome.files.items():
            (draft / file).write_bytes(data)
    print(f"{name}: {layout.theory(name) / 'table.csv'}")


if __name__ == "__main__":
    sys.exit(stage_main(run))
