"""Run the whole study, publish it to MLflow, write the page, and print the results and where they lie.

`make run` calls `python -m stages.run`. The same results come from `dvc repro`, which runs the cells one by one, or
`python -m stages.parallel.sweep`, which runs several side by side and is what this module calls; then follow
`python -m stages.tracking.publish` and `python -m stages.view`. Arguments go to the sweep: `--jobs 4`.

A study of many gradient steps begins with a forecast (`python -m stages.forecast`). Where cells fail, such as those of
a dataset that cannot be downloaded, all others are finished, and a partial report says what they give.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from spar_core.errors import SparError
from spar_core.study import Study
from stages.cost import write_cost
from stages.entry import stage_main
from stages.forecast import WORTH_SAYING, say
from stages.keeping import keep_policies
from stages.layout import Layout
from stages.parallel.sweep import CellsFailed
from stages.parallel.sweep import run as sweep
from stages.params import section
from stages.report import make_partial_report, print_table
from stages.tracking.publish import attach
from stages.tracking.publish import run as publish
from stages.view import run as view


def run(argv: list[str] | None = None) -> None:
    """Entry point of ``python -m stages.run``."""
    begun = time.monotonic()
    # Wrong params are for `plan` to refuse, which the sweep runs first.
    with suppress(SparError):
        say(Layout(), WORTH_SAYING)
    try:
        sweep(argv)
    except CellsFailed:
        report_what_there_is(Layout())
        raise
    keep_policies(Layout())
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


def report_what_there_is(layout: Layout) -> None:
    """Write a partial report of the cells that are done, if there are any, and say where it lies."""
    try:
        folder, missing = make_partial_report(layout)
    except SparError as error:
        print(f"no partial report: {error}")
        return
    print(f"partial report, {missing} missing cell{'' if missing == 1 else 's'}: {folder / 'report.md'}")


if __name__ == "__main__":
    sys.exit(stage_main(run))
