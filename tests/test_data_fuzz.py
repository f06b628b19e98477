"""Random small datasets in all three formats, sound and faulty: read exactly as they were made, or refused in one line.

``SPAR_FUZZ=100000`` tries that many of each format, drawn anew in every run; without it the same few are tried.
"""

from __future__ import annotations

import json
import os
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import yaml
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from spar_core.data.entry_files import load_entry
from spar_core.data.episodes import Episode, episode_digest, episodes_digest
from spar_core.data.names import BESIDE, MEANS, USUAL
from spar_core.data.prepare import prepare
from spar_core.data.readers.minari_io import write_minari
from spar_core.data.sources import collect
from spar_core.errors import SparError
from stages.download import download
from stages.layout import Layout

DATASET = "mine/any-v0"
MANY = int(os.environ.get("SPAR_FUZZ", "0"))
FUZZ = settings(
    max_examples=MANY or 100,
    derandomize=not MANY,
    database=None,
    deadline=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
Arrays = dict[str, np.ndarray]
seldom = st.sampled_from([False] * 7 + [True])


@dataclass
class Case:
    """A dataset, its entry, and what has to come out."""

    episodes: list[Episode]
    entry: dict = field(default_factory=dict)
    refused: bool = False
    # Whether it may be refused as well: its bytes were changed at random.
    damaged: bool = False


# --- what is stored ---


@st.composite
def episode_lists(draw, least: int = 0) -> list[Episode]:
    """Episodes of one size, whose numbers float32 holds exactly; some are copies of others."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    d, a, whole = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.booleans())
    made = []
    episode = st.tuples(st.integers(1, 6), st.booleans(), seldom)
    for steps, terminated, copy in draw(st.lists(episode, min_size=least, max_size=6)):
        seen = rng.integers(-100, 100, (steps + 1, d)) if whole else rng.normal(size=(steps + 1, d))
        one = Episode(
            seen.astype(np.float32),
            rng.uniform(-1, 1, (steps, a)).astype(np.float32),
            rng.normal(size=steps).astype(np.float32),
            terminated,
        )
        made.append(made[-1] if copy and made else one)
    return made


def blind(episode: Episode) -> Episode:
    """The episode without the observation after its last step."""
    seen = np.append(episode.observations[:-1], episode.observations[-2:-1], axis=0)
    return replace(episode, observations=seen, last_known=False)


@st.composite
def flags(draw, episodes: list[Episode]) -> tuple[Arrays, list[bool]]:
    """Flags by meaning that mark every end, and which of the ends they call terminal."""
    last = np.concatenate([np.arange(e.steps) == e.steps - 1 for e in episodes])
    terminals = last & np.concatenate([np.full(e.steps, e.terminated) for e in episodes])
    timeouts = last & ~terminals
    kinds = {
        "both": {"terminals": terminals, "timeouts": timeouts},
        "overlapping": {"terminals": terminals, "timeouts": last},
        "dones and terminals": {"terminals": terminals, "dones": last},
        "dones and timeouts": {"timeouts": timeouts, "dones": last},
        "dones": {"dones": last},
        "all": {"terminals": terminals, "timeouts": timeouts, "dones": last},
    }
    kind = draw(st.sampled_from(sorted(kinds)))
    types = st.sampled_from(["?", "f4", "f8", "u1", "i8"])
    found = {name: flag.astype(draw(types)) for name, flag in kinds[kind].items()}
    if draw(st.booleans()):
        found = {name: flag[:, None] for name, flag in found.items()}
    return found, [kind == "dones" or e.terminated for e in episodes]


def flat(episodes: list[Episode], following: bool) -> Arrays:
    arrays = {
        "observations": np.concatenate([e.observations[:-1] for e in episodes]),
        "actions": np.concatenate([e.actions for e in episodes]),
        "rewards": np.concatenate([e.rewards for e in episodes]),
    }
    if following:
        arrays["next_observations"] = np.concatenate([e.observations[1:] for e in episodes])
    return arrays


@st.composite
def parts(draw, episodes: list[Episode], one_file: bool) -> tuple[list[Arrays], list[Episode]]:
    """Arrays of each file, by meaning, and the episodes that they hold."""
    groups = [episodes] if one_file or draw(st.booleans()) else [[e] for e in episodes]
    files, wanted = [], []
    for group in groups:
        following = draw(st.booleans())
        arrays = flat(group, following)
        marks, terminal = draw(flags(group))
        held = [replace(e, terminated=t) for e, t in zip(group, terminal, strict=True)]
        if not following:
            held = [blind(e) for e in held]
        if not one_file and draw(st.booleans()):  # the observation after the last row
            arrays["observations"] = np.append(arrays["observations"], group[-1].observations[-1:], 0)
            held[-1] = replace(held[-1], observations=group[-1].observations, last_known=True)
        if len(group) == 1 and not one_file:
            style = draw(st.sampled_from(["flags", "one flag", "none"]))
            if style == "one flag":
                marks = {name: flag[-1] for name, flag in marks.items()}
            if style == "none":
                marks, held = {}, [replace(held[0], terminated=False)]
        files.append({**arrays, **marks})
        wanted += held
    return files, wanted


# --- faults: each changes the arrays of one file, and may change what has to come out ---


def _spoil(draw, arrays: Arrays, case: Case, first: int) -> None:
    """A number that is not finite; the first episode of the file has the number ``first`` among all."""
    name = draw(st.sampled_from(["observations", "actions", "rewards"]))
    value = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e300]))
    wide = arrays[name].astype(np.float64)
    wide.reshape(len(wide), -1)[0, 0] = value
    arrays[name] = wide
    if draw(st.booleans()):
        case.entry["not_finite"] = "drop_episodes"
        del case.episodes[first]
    else:
        case.refused = True


def _flag(draw, arrays: Arrays, case: Case, first: int) -> None:
    for name in ("terminals", "timeouts", "dones"):
        if name in arrays:
            wrong = np.array(arrays[name], np.float64)
            wrong[(0,) * wrong.ndim] = draw(st.sampled_from([np.nan, 2.0, -1.0, 0.5, np.inf]))
            arrays[name], case.refused = wrong, True


def _unknown(draw, arrays: Arrays, case: Case, first: int) -> None:
    name = draw(st.text(string.ascii_lowercase + "_", min_size=1, max_size=8))
    if name in {*MEANS, *BESIDE, "score", "file"}:  # numpy.savez has a parameter of the last name
        return
    arrays[name] = np.zeros(draw(st.sampled_from([(), (2,), (2, 3)])))
    if draw(st.booleans()):
        case.entry["ignored_arrays"] = [name]
    else:
        case.refused = True


def _beside(draw, arrays: Arrays, case: Case, first: int) -> None:
    arrays[draw(st.sampled_from(["infos/qpos", "qvel", "metadata/algorithm"]))] = np.zeros((2, 2))


def _missing(draw, arrays: Arrays, case: Case, first: int) -> None:
    del arrays[draw(st.sampled_from(["observations", "actions", "rewards"]))]
    case.refused = True


def _length(draw, arrays: Arrays, case: Case, first: int) -> None:
    name = draw(st.sampled_from(sorted(name for name in arrays if np.ndim(arrays[name]))))
    more = 2 if name == "observations" else 1  # one more row of observations may be that after the last step
    arrays[name] = np.concatenate([arrays[name], arrays[name][:1].repeat(more, 0)])
    case.refused = True


def _shape(draw, arrays: Arrays, case: Case, first: int) -> None:
    name = draw(st.sampled_from(["observations", "actions", "rewards"]))
    change = draw(st.sampled_from([lambda x: x[..., None, None], lambda x: np.stack([x, x], 1), lambda x: x[0]]))
    arrays[name] = change(arrays[name])
    case.refused = arrays[name].ndim != 3 or name != "rewards"  # trailing axes of one are no second reward


def _kind(draw, arrays: Arrays, case: Case, first: int) -> None:
    name = draw(st.sampled_from(["observations", "actions", "rewards"]))
    kinds = ["S3", "c8"] + (["i8", "u1", "?"] if name == "actions" else [])
    arrays[name], case.refused = np.abs(arrays[name]).astype(draw(st.sampled_from(kinds))), True


def _precision(draw, arrays: Arrays, case: Case, first: int) -> None:
    kinds = [">f4", "f8", ">f8"]
    for name in ("observations", "next_observations", "actions", "rewards"):
        if name in arrays:
            arrays[name] = arrays[name].astype(draw(st.sampled_from(kinds)))


def _twice(draw, arrays: Arrays, case: Case, first: int) -> None:
    name = draw(st.sampled_from(["observations", "actions", "rewards"]))
    arrays[draw(st.sampled_from(USUAL[name][1:]))], case.refused = arrays[name], True


def _outside(draw, arrays: Arrays, case: Case, first: int) -> None:
    arrays["actions"] = arrays["actions"].copy()
    arrays["actions"][0, 0] = 1.5
    bounds, rule = draw(st.sampled_from([(1.0, "refuse"), (1.0, "clip"), (2.0, "refuse"), (-2.0, "clip")]))
    case.entry |= {"action_low": -1.0, "action_high": bounds, "out_of_bounds_actions": rule}
    case.refused = (bounds, rule) in ((1.0, "refuse"), (-2.0, "clip"))
    changed = case.episodes[first].actions.copy()
    changed[0, 0] = min(1.5, bounds)
    case.episodes[first] = replace(case.episodes[first], actions=changed)


def _shifted(draw, arrays: Arrays, case: Case, first: int) -> None:
    """Next observations of the same rows; only long episodes show it."""
    if "next_observations" not in arrays or min(e.steps for e in case.episodes) < 3:
        return
    rows = len(arrays["next_observations"])
    if len(np.unique(arrays["observations"][:rows], axis=0)) == rows:
        arrays["next_observations"], case.refused = arrays["observations"][:rows].copy(), True


def _no_columns(draw, arrays: Arrays, case: Case, first: int) -> None:
    name = draw(st.sampled_from(["observations", "actions"]))
    arrays[name] = arrays[name][:, :0]
    if name == "observations":
        arrays.pop("next_observations", None)
    case.refused = True


FAULTS: list[Callable] = [
    _spoil,
    _flag,
    _unknown,
    _beside,
    _missing,
    _length,
    _shape,
    _kind,
    _precision,
    _twice,
    _outside,
    _shifted,
    _no_columns,
]


def renamed(draw, arrays: Arrays, entry: dict) -> Arrays:
    """The arrays under usual names, or under names that the entry gives."""
    found = {}
    for meaning, array in arrays.items():
        name = draw(st.sampled_from(USUAL[meaning])) if meaning in USUAL and draw(st.booleans()) else meaning
        if name in found or (name != meaning and name in arrays):
            name = meaning
        found[name] = array
    return found


# --- the three formats ---


@st.composite
def flat_cases(draw, one_file: bool) -> tuple[Case, list[Arrays]]:
    episodes = draw(episode_lists())
    if not episodes:
        return Case([], refused=True), []
    files, wanted = draw(parts(episodes, one_file))
    case = Case(wanted)
    if draw(st.booleans()):
        which = draw(st.integers(0, len(files) - 1))
        draw(st.sampled_from(FAULTS))(draw, files[which], case, which if len(files) > 1 else 0)
    files = [renamed(draw, arrays, case.entry) for arrays in files]
    if "ignored_arrays" not in case.entry and draw(st.booleans()) and all("rewards" in arrays for arrays in files):
        case.entry["arrays"] = {"rewards": "score"}
        for arrays in files:
            arrays["score"] = arrays.pop("rewards")
    return case, files


def check(folder: Path, case: Case, source: str, whole: bool) -> None:
    """Read and check the dataset, with ``whole`` through the stage ``download``, and compare what comes out."""
    layout = Layout(folder)
    path = layout.dataset_entry(DATASET)
    path.parent.mkdir(parents=True)
    values = {"title": "t", "source": source, "path": "data", "heldout_share": 0.2}
    path.write_text(yaml.safe_dump({**values, **case.entry}))
    wanted = [episode_digest(e) for e in case.episodes]
    # Episodes of one step that show no next observation teach nothing; a single other one may happen to be held out.
    useful = {episode_digest(e) for e in case.episodes if e.steps > 1 or e.terminated or e.last_known}
    refused = case.refused or len(set(wanted)) < 2 or not useful
    try:
        if whole:
            manifest = download(layout, DATASET, 1)
        else:
            entry = load_entry(path)
            manifest = prepare(entry, DATASET, collect(entry, folder)).manifest
    except SparError as error:
        event("refused")
        assert refused or case.damaged or len(useful) == 1, f"refused: {error}"
        assert "\n" not in str(error) and str(error)
        left = layout.root / "artifacts"
        assert not left.exists() or not [file for file in left.rglob("*") if file.is_file()]
        return
    event("read")
    assert not refused or case.damaged, "a faulty dataset was read"
    assert manifest["episodes"] == len(wanted) and manifest["steps"] == sum(e.steps for e in case.episodes)
    assert manifest["terminated_episodes"] == sum(e.terminated for e in case.episodes)
    assert manifest["last_observation_unknown"] == sum(not e.last_known for e in case.episodes)
    assert manifest["digest"] == episodes_digest(wanted)


@FUZZ
@given(case_and_files=flat_cases(one_file=False), damaged=seldom, place=st.integers(0, 10**4), whole=seldom)
def test_npz(case_and_files, damaged, place, whole):
    case, files = case_and_files
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "data").mkdir()
        for number, arrays in enumerate(files):
            np.savez(folder / f"data/{number:02d}.npz", **arrays)
        if damaged and files:
            path = folder / "data/00.npz"
            data = bytearray(path.read_bytes())
            data[place % len(data)] ^= 1 + place % 255
            path.write_bytes(data)
            case.damaged = True
        check(folder, case, "npz", whole)


@FUZZ
@given(
    case_and_files=flat_cases(one_file=True), cut=seldom, share=st.floats(0, 0.99), chunked=st.booleans(), whole=seldom
)
def test_d4rl_hdf5(case_and_files, cut, share, chunked, whole):
    case, files = case_and_files
    if not ({"terminals", "dones"} & {MEANS.get(name) for name in (files[0] if files else ())}):
        case.refused = True
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "data"
        with h5py.File(path, "w") as file:
            for meaning, array in (files[0] if files else {}).items():
                packed = {"compression": "gzip"} if chunked and np.size(array) and np.ndim(array) else {}
                file.create_dataset(meaning, data=array, **packed)
        if cut:
            data = path.read_bytes()
            path.write_bytes(data[: int(share * len(data))])
            case.refused = True
        check(Path(name), case, "d4rl_hdf5", whole)


def spoil_minari(draw, data: Path, case: Case, fault: str) -> None:
    """Change the stored dataset of the case, whose episodes are still all."""
    if fault in ("total_steps", "total_episodes"):
        metadata = json.loads((data / "metadata.json").read_text())
        metadata[fault] += draw(st.sampled_from([1, -1, 5, 10**15]))
        (data / "metadata.json").write_text(json.dumps(metadata))
        return
    number = draw(st.integers(0, len(case.episodes) - 1))
    name = draw(st.sampled_from(["observations", "actions", "rewards", "terminations", "truncations"]))
    with h5py.File(data / "main_data.hdf5", "a") as file:
        group = file[f"episode_{number}"]
        values = group[name][()]
        del group[name]
        if fault == "unknown":
            file["episode_0/terminals"] = values
            group[name] = values
        elif fault == "longer":
            group[name] = np.concatenate([values, values[:1]])
        elif fault == "text":
            group[name] = np.full(values.shape, b"1")
        elif fault in ("nan", "precision"):
            group[name] = values.astype(np.float64)
            if fault == "nan":
                group[name][(0,) * values.ndim] = np.nan
    case.refused = fault != "precision"
    if fault == "nan" and name in ("observations", "actions", "rewards") and draw(st.booleans()):
        case.entry["not_finite"], case.refused = "drop_episodes", False
        del case.episodes[number]


@FUZZ
@given(episodes=episode_lists(least=1), data=st.data(), whole=seldom)
def test_minari(episodes, data, whole):
    case = Case(list(episodes))
    faults = ["missing", "longer", "unknown", "nan", "text", "precision", "total_steps", "total_episodes"]
    fault = data.draw(st.sampled_from([""] * 4 + faults))
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "data").mkdir()
        bounds = np.ones(episodes[0].actions.shape[1], np.float32)
        write_minari(Path(name) / "data", DATASET, episodes, action_low=-bounds, action_high=bounds)
        if fault:
            case.refused = True
            spoil_minari(data.draw, Path(name) / "data/data", case, fault)
        check(Path(name), case, "minari", whole)
