"""``spar``: improve a policy from logged data, without a clone of the project.

``check``, ``improve``, ``report`` and ``export`` need neither DVC nor MLflow. ``init`` makes a project in which
``dvc repro`` runs a study, and ``new-study`` adds a study to it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from spar_core.training.memory import keep_freed_memory
from stages import export
from stages.command import calls, project
from stages.failures import tell
from stages.logs import log_to_terminal

LINES = argparse.RawDescriptionHelpFormatter


def parser() -> argparse.ArgumentParser:
    """The command line."""
    from spar_core.version import __version__

    spar = argparse.ArgumentParser(prog="spar", description=__doc__.replace("``", ""), formatter_class=LINES)
    spar.add_argument("--version", action="version", version=f"spar {__version__}")
    shared = argparse.ArgumentParser(add_help=False)
    loudness = shared.add_mutually_exclusive_group()
    loudness.add_argument("--verbose", action="store_const", dest="log", const="debug", help="log everything")
    loudness.add_argument("--quiet", action="store_const", dest="log", const="warning", help="log warnings only")
    commands = spar.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, parents=[shared], formatter_class=LINES)
        made.set_defaults(run=run)
        return made

    check = command("check", calls.check, "read data and say what was understood, and how healthy they are")
    calls.add_data(check)
    improve = command("improve", calls.improve, "improve a policy, or a clone of the data, and give a verdict")
    calls.add_data(improve)
    calls.add_call(improve)
    report = command("report", calls.report, "print the verdict of a result or of a project, and write its page")
    report.add_argument("folder", nargs="?", help="result of `spar improve`; without it, the project in this folder")
    report.add_argument("--page", help="write the report as one page that opens offline, or into a folder")
    exported = command("export", calls.export, "write a policy as one file that acts without this package")
    export.add_options(exported, "folder of a policy, or of a result of `spar improve`")
    exported.add_argument("--rule", help="of a result: whose policy (default: the one that the verdict names)")
    init = command("init", project.init, "make a project in which `dvc repro` runs a study of your data")
    project.add_init(init)
    study = command("new-study", project.new_study, "write studies/NAME.yaml, and put it into params.yaml")
    project.add_study(study)
    return spar


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``spar``; errors are one line. Returns the exit status."""
    args = parser().parse_args(argv)
    keep_freed_memory()
    # Policies and environments of one's own are modules of the current folder, as for `python -m stages...`.
    sys.path.insert(0, str(Path.cwd()))
    try:
        log_to_terminal(args.log)
        args.run(args)
    except KeyboardInterrupt:
        print("error: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    except Exception as error:
        return tell(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
