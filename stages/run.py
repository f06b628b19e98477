"""Run the whole study: `dvc repro`, publish to MLflow, write the page, and print the results and where they lie.

`make run` calls `python -m stages.run`. The same results come from `dvc repro` followed by
`python -m stages.tracking.publish` and `python -m stages.view`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from spar_core.errors import SparError
from spar_core.study import Study
from stages.cost import write_cost
from stages.entry import stage_main
from stages.layout import Layout
from stages.parallel.child import dvc_environment
from stages.params import section
from stages.report import print_table
from stages.tracking.publish import attach
from stages.tracking.publish import run as publish
from stages.view import run as view


def repro(arguments: list[str]) -> None:
    """Run `dvc repro` with this interpreter.

    Raises:
        SparError: a stage failed.
    """
    status = subprocess.run([sys.executable, "-m", "dvc", "repro", *arguments], env=dvc_environment()).returncode
    if status != 0:
        raise SparError("the pipeline stopped", "the failed stage printed the reason above; mend that and run again")


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.run``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, rest = parser.parse_known_args(argv)
    begun = time.monotonic()
    repro(rest)
    print()
    print_table(Layout())
    write_cost(Layout())
    failed = None
    try:
        publish([])
    except SparError as error:
        failed = error
    # The page is written without a store, too; it then says that there is none.
    view([])
    if failed is not None:
        raise failed
    # The page names the runs, so it is attached to the runs last.
    attach(section(Layout(), "study", Study), Layout())
    print(f"\nTook {(time.monotonic() - begun) / 60:.1f} minutes.")


if __name__ == "__main__":
    sys.exit(stage_main(run))
