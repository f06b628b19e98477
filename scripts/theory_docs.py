"""Put the numbers of reports/theory/ into docs/theory.md: `python -m scripts.theory_docs` after `make theory`.

Numbers in the text are written `claim.name = 1.97`.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from spar_core.artifacts import read_json
from spar_core.theory.claims import CLAIMS
from spar_core.theory.page import significant

PAGE = Path("docs/theory.md")


def fill(text: str, results: dict[str, dict[str, Any]]) -> str:
    """The page with the numbers of ``results`` in place of its own."""

    def number(match: re.Match[str]) -> str:
        (finding,) = [f for f in results[match[1]]["findings"] if f["name"] == match[2]]
        return f"`{match[1]}.{match[2]} = {significant(finding['value'])}`"

    return re.sub(rf"`({'|'.join(results)})\.(\w+) = [^`]*`", number, text)


def main() -> None:
    """Command line."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = {name: read_json(Path("reports/theory") / name / "result.json") for name in CLAIMS}
    PAGE.write_text(fill(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")


if __name__ == "__main__":
    main()
