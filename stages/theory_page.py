"""Join the geometric claims' results into one page, reports/theory/README.md.

Reads the ``result.json`` of every claim. Results of claims that this run did not measure are in git.
"""

from __future__ import annotations

import argparse
import sys

from spar_core.artifacts import read_json
from spar_core.theory.claims import CLAIMS
from spar_core.theory.page import page
from stages.entry import stage_main
from stages.layout import Layout


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.theory_page``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    layout = Layout()
    text = page([read_json(layout.theory(name) / "result.json") for name in CLAIMS])
    target = layout.theory("README.md")
    draft = target.with_suffix(".draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)
    print(f"page: {target}")


if __name__ == "__main__":
    sys.exit(stage_main(run))
