"""``spar init`` and ``spar new-study``: a project of the user's own, whose stages come from the installed package."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from spar_core.data.entry_files import load_entry
from spar_core.effective import check
from spar_core.errors import SparError
from spar_core.settings import load_yaml, nearest
from spar_core.study import NAME
from stages.command.calls import add_data, keys_of
from stages.layout import Layout
from stages.study import put_study

FILES = Path(__file__).parent / "project"
# The dataset of a project without data: a maze that needs no file.
MAZE = "builtin/pointmaze-umaze-v0"
STUDY, POLICY = "mine", "policy"
RULES = ["anchor", "uniform", "spar_mlp", "spar_proj"]
IGNORED = "/artifacts\n/exports/\n/mlflow.db*\n/mlartifacts/\n/mlruns/\n/runs/\n/.checkpoints/\n__pycache__/\n"
# Outputs of the report that DVC keeps, or that differ between copies.
REPORTS = ("report.html", "film/", "cost.csv", "partial/", "table.csv", "anchors.csv", "pairs.csv", "overall.csv")
IGNORED += "".join(f"/reports/*/{name}\n" for name in (*REPORTS, "harm.csv", "regret.csv"))
CONFIG = "[core]\n    analytics = false\n"


def add_init(parser: argparse.ArgumentParser) -> None:
    """Options of ``spar init``."""
    parser.add_argument("folder", metavar="DIR", help="the project's folder, which must be empty or not exist")
    add_data(parser, optional=True)
    parser.add_argument("--policy", help="your own policy as the anchor: an ONNX file, which is copied")
    parser.add_argument("--seeds", default="4", help='number of seeds, or a group such as "0-3" (default: 4)')
    parser.add_argument("--budget", default="default", help="quick, default or paper")


def add_study(parser: argparse.ArgumentParser) -> None:
    """Options of ``spar new-study``."""
    parser.add_argument("name", help="a-z, 0-9, '_' and '-'")
    parser.add_argument("--question", default="", help="what the study asks")
    for option, text in (
        ("datasets", "ids of datasets/ID.yaml"),
        ("anchors", "variants of the section anchors"),
        ("critics", "variants of the section critics"),
        ("improvements", "variants of the section improvements"),
        ("seeds", 'groups of seeds, such as "0-3"'),
    ):
        parser.add_argument(f"--{option}", nargs="+", help=f"{text} (default: those of the current study)")


def init(args: argparse.Namespace) -> None:
    """Make a project, whole or not at all."""
    target = Path(args.folder).resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise SparError(f"{target} is not empty", "name a folder that does not exist")
    dataset, entry = _entry(args)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as draft:
        _write(Layout(Path(draft)), dataset, entry, args)
        target.mkdir(exist_ok=True)
        for item in Path(draft).iterdir():
            item.rename(target / item.name)
    _under_git(target)
    print(f"{target}: datasets/{dataset}.yaml, studies/{STUDY}.yaml, params.yaml, dvc.yaml")
    print(f"next: cd {target} && spar check {dataset} && dvc repro && spar report")


def new_study(args: argparse.Namespace) -> None:
    """Write a study, and make it the current one."""
    layout = Layout()
    params = load_yaml(layout.params)
    path = layout.root / "studies" / f"{args.name}.yaml"
    if not NAME.fullmatch(args.name):
        raise SparError(f"'{args.name}' is no name of a study", "use a-z, 0-9, '_' and '-'")
    if path.exists():
        raise SparError(
            f"{path} exists", f"edit it, or choose another name; `python -m stages.study {args.name}` uses it"
        )
    lists = ("datasets", "anchors", "critics", "improvements", "seeds")
    current = check(params)
    values: dict[str, Any] = {"question": args.question}
    values |= {name: list(getattr(args, name) or getattr(current, name)) for name in lists}
    entries = {dataset: load_entry(layout.dataset_entry(dataset)) for dataset in values["datasets"]}
    values["estimated"] = [name for name, entry in entries.items() if entry.env_id is None and entry.source != "minari"]
    check({**params, "study": {"name": args.name, **values}}, file=str(path))
    _dump(path, values)
    put_study(layout, args.name)
    print(f"{path} is the current study; run `dvc repro`")


def pipeline() -> str:
    """The text of ``dvc.yaml`` for a project that measures no geometric claims."""
    text = (FILES / "pipeline.yaml").read_text(encoding="utf-8")
    for pattern, replacement in (
        (r"^vars:\n  - theory\.yaml:claims\n\n", ""),
        (r"^params: \[params\.yaml, theory\.yaml\]$", "params: [params.yaml]"),
        (r"^  theory:\n(?:.*\n)*?(?=(?:#.*\n)?plots:\n)", ""),
    ):
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count == 1, pattern
    return text


def _entry(args: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Id and keys of the project's dataset."""
    from spar_core.one_call.data import source_of

    if args.data is None:
        if args.name or args.env_id or args.entry:
            raise SparError("--name, --env-id and --entry are about data, and none are given", "name a file behind DIR")
        return MAZE, load_yaml(FILES / "pointmaze-umaze-v0.yaml")
    text = str(Path(args.data).expanduser().resolve()) if Path(args.data).expanduser().exists() else args.data
    source = source_of(text, Path(), args.name, keys_of(args))
    return source.dataset, {"source": source.entry.source, **source.entry.model_dump(mode="json", exclude_unset=True)}


def _write(layout: Layout, dataset: str, entry: Mapping[str, Any], args: argparse.Namespace) -> None:
    """Fill an empty folder."""
    from spar_core.one_call.call import group_of
    from spar_core.one_call.settings import budgets

    known = budgets()
    if args.budget not in known:
        raise SparError(f"there is no budget '{args.budget}'", nearest(args.budget, list(known)))
    used = {"anchors": ("mlp",), "critics": ("iql",), "improvements": RULES}
    params: dict[str, Any] = {
        section: {name: values[name] for name in used.get(section, values) if name in values}
        for section, values in known[args.budget].items()
    }
    if args.policy:
        copied = Path("policies") / Path(args.policy).name
        if Path(args.policy).suffix != ".onnx" or not Path(args.policy).is_file():
            raise SparError(f"{args.policy} is no ONNX file", "name one, or write a function into params.yaml yourself")
        (layout.root / copied).parent.mkdir()
        shutil.copyfile(args.policy, layout.root / copied)
        own = {"kind": "external", "onnx": str(copied)}
        params["anchors"] = {**params.get("anchors", {}), POLICY: own}
    study = {
        "question": "Does SPAR improve on my policy?" if args.policy else "Does SPAR improve on cloning my logs?",
        "datasets": [dataset],
        "anchors": [POLICY if args.policy else "committee"],
        "critics": ["iql"],
        "improvements": RULES,
        "seeds": [group_of(int(args.seeds) if args.seeds.isdigit() else args.seeds)],
        "estimated": [] if entry.get("env_id") or entry["source"] == "minari" else [dataset],
        **({"params": params} if params else {}),
    }
    (layout.root / "dvc.yaml").write_text(pipeline(), encoding="utf-8")
    shutil.copyfile(FILES / "params.yaml", layout.params)
    _dump(layout.dataset_entry(dataset), entry, style=False)
    _dump(layout.root / "studies" / f"{STUDY}.yaml", study)
    put_study(layout, STUDY)
    (layout.root / ".gitignore").write_text(IGNORED, encoding="utf-8")
    (layout.root / ".dvcignore").write_text("__pycache__/\n*.draft\n/.checkpoints/\n", encoding="utf-8")
    (layout.root / ".dvc").mkdir()
    (layout.root / ".dvc" / "config").write_text(CONFIG, encoding="utf-8")
    (layout.root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")


class _Plain(yaml.SafeDumper):
    """Writes a value that stands in several places several times."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _dump(path: Path, values: Mapping[str, Any], style: bool | None = None) -> None:
    """Write plain values as YAML; by default, lists of names stand on one line."""
    text = yaml.dump(dict(values), Dumper=_Plain, sort_keys=False, default_flow_style=style, width=120)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _under_git(folder: Path) -> None:
    """Put the project under git, which DVC works with; without git, tell DVC to do without."""

    def git(*words: str) -> bool:
        try:
            return subprocess.run(["git", "-C", str(folder), *words], capture_output=True).returncode == 0
        except OSError:
            return False

    if not git("rev-parse") and not git("init", "-q"):
        (folder / ".dvc" / "config").write_text(f"{CONFIG}    no_scm = true\n", encoding="utf-8")
