"""``spar check``, ``spar improve``, ``spar report`` and ``spar export``: one call each."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from spar_core.errors import SparError
from stages import export as exporting
from stages.entry import device, workers
from stages.layout import Layout

# The file that says that a folder holds a result of `spar improve`.
STUDY = "study.json"


def add_data(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Options that name the data; with ``optional``, a built-in dataset stands for data that are not given."""
    text = ".npz file or folder of them, HDF5 file, Minari folder or id"
    if optional:
        parser.add_argument("data", nargs="?", help=f"{text} (default: a maze that needs no file)")
    else:
        parser.add_argument("data", help=f"{text}, or id of an entry in datasets/")
    parser.add_argument("--env-id", help="Gymnasium id of an environment to roll policies out in")
    parser.add_argument("--name", help="id of the dataset, such as mine/arm-v0 (default: made from the path)")
    parser.add_argument(
        "--entry",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="key of a dataset's entry, such as action_low=-2 or env_kwargs='{max_episode_steps: 200}'; repeat it",
    )


def add_call(parser: argparse.ArgumentParser) -> None:
    """Options of ``spar improve`` beside the data."""
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the result, which must not exist")
    parser.add_argument("--policy", help="your own policy as the anchor: an ONNX file, or module:function")
    parser.add_argument(
        "--anchor",
        default="committee",
        help="kind of the clone (default: committee, the mean of what each seed clones); not with --policy",
    )
    parser.add_argument("--critic", default="iql", help="kind of the critic (default: iql)")
    parser.add_argument("--rule", default="auto", help="rule that improves the anchor (default: auto)")
    parser.add_argument("--seeds", default="4", help='number of seeds, or a group such as "0-3" (default: 4)')
    parser.add_argument("--budget", default="default", help="quick, default or paper")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting over the budget's, such as improvements.spar_mlp.tau=0.5; repeat it",
    )


def check(args: argparse.Namespace) -> None:
    """Print what was read, and the health of the data."""
    from spar_core.one_call.data import read, source_of
    from spar_core.reporting.numbers.health import State, data_findings

    with tempfile.TemporaryDirectory() as scratch:
        data = data_of(args)
        found = read(source_of(data, Path(scratch), args.name, keys_of(args)))
    for line in found.lines():
        print(line)
    findings = data_findings(found.prepared.manifest)
    bad = [finding for finding in findings if finding.state is not State.GREEN]
    for finding in bad:
        print(f"{finding.state}: {finding.text} {finding.check.advice}")
    if not bad:
        print(f"health of the data: green ({len(findings)} check{'s' if len(findings) != 1 else ''})")


def improve(args: argparse.Namespace) -> None:
    """Make a result, and print it."""
    import spar_core

    made = spar_core.improve(
        data_of(args),
        args.policy,
        args.anchor,
        args.critic,
        args.rule,
        int(args.seeds) if args.seeds.isdigit() else args.seeds,
        args.budget,
        out=args.out,
        entry=keys_of(args),
        params=tree(args.set, "--set"),
        name=args.name,
        workers=workers(),
        device=device(),
    )
    print(made)
    print(f"\nReport: {made.report(Path(args.out) / 'report.html')}\nPolicy: {made.folder_of(made.rule)} ({made.rule})")


def report(args: argparse.Namespace) -> None:
    """Print the verdict of a result or of a study, and write the page."""
    if args.folder is None:
        from stages.report import print_table
        from stages.view import write_page

        if args.page:
            raise SparError("--page needs the folder of a result", "a project's page is reports/<study>/report.html")
        print_table(Layout())
        print(f"Page: {write_page(Layout(), film=False)}")
        return
    from spar_core import load_result

    result = load_result(args.folder)
    print(result)
    if args.page:
        print(f"\nReport: {result.report(args.page)}")


def export(args: argparse.Namespace) -> None:
    """Export a policy of a project, or of a result."""
    layout = Layout()
    if (args.policy / STUDY).is_file():
        from spar_core import load_result

        result = load_result(args.policy)
        layout, args.policy = Layout(result.folder), result.folder_of(args.rule or result.rule)
    elif args.rule:
        raise SparError(f"{args.policy} is no result of `spar improve`, so --rule has no meaning", "leave it out")
    exporting.export(layout, args)


def data_of(args: argparse.Namespace) -> Any:
    """The data that a command line names: an entry of the project in this folder, or what the text says itself.

    Raises:
        SparError: the entry is not valid, or options would change it.
    """
    from spar_core.data.entry_files import load_entry
    from spar_core.data.family import entry_values
    from spar_core.one_call.data import Source

    path = Layout().dataset_entry(args.data)
    if entry_values(path) is None:
        return args.data
    if args.name or args.env_id or args.entry:
        raise SparError(f"{path} says how {args.data} is read", "leave out --name, --env-id and --entry")
    return Source(args.data, load_entry(path), Path())


def keys_of(args: argparse.Namespace) -> dict[str, Any]:
    """Further keys of the entry that a command line gives."""
    return {**({"env_id": args.env_id} if args.env_id else {}), **tree(args.entry, "--entry")}


def tree(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """Settings from texts such as ``a.b=1``; values are YAML.

    Raises:
        SparError: a text has no ``=``, its value is not YAML, or a key stands both for a value and for a section.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        *above, last = path.split(".")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise SparError(f"{option} {pair}: '{text}' is not YAML", "put it in quotes") from None
        if not equals or not all([*above, last]):
            raise SparError(f"{option} {pair} is not KEY=VALUE", f"write it like {option} key=1")
        level = found
        for key in above:
            level = level.setdefault(key, {})
            if not isinstance(level, dict):
                raise SparError(f"{option} {pair}: '{key}' has a value already", "give each key once")
        level[last] = value
    return found
