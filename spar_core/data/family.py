"""Files that describe several dataset entries, which differ in a few words.

``datasets/<folder>/<name>.family.yaml`` holds ``axes``, ``id`` and ``entry`` (:class:`Family`). Each combination of the
values of its axes is an entry of the folder, as if it had a file of its own. Its id begins with ``<name>``. A file of
an entry's own goes first.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from pydantic import Field

from spar_core.errors import SparError
from spar_core.settings import Settings, load_yaml, parse

FAMILY = ".family.yaml"


class Family(Settings):
    """Entries that differ in a few words: one for each combination of the values of its axes."""

    axes: dict[str, list[str | int]] = Field(min_length=1, description="values of each word that differs")
    id: str = Field(description="id of an entry within the folder, with {axis} for the words that differ")
    entry: dict[str, Any] = Field(description="keys of every entry, with {axis} in their texts")


def entry_values(path: Path) -> dict[str, Any] | None:
    """The keys of ``datasets/<id>.yaml``, or of the member of a family file beside it; None if there is neither.

    Raises:
        SparError: the file, or a family file beside it, is not valid.
    """
    return load_yaml(path) if path.is_file() else family_entry(path)


def family_entry(path: Path) -> dict[str, Any] | None:
    """The keys of the entry ``path`` as a family file of its folder gives them; None if none does.

    Raises:
        SparError: a family file of the folder is not valid.
    """
    for file in sorted(path.parent.glob(f"*{FAMILY}")):
        if not path.stem.startswith(file.name.removesuffix(FAMILY)):
            continue
        words = members_of(file).get(path.stem)
        if words is not None:
            filled = _filled(load_yaml(file)["entry"], words)
            assert isinstance(filled, dict)
            return filled
    return None


def members_of(file: Path) -> dict[str, dict[str, str]]:
    """The word of each axis, by the ids of a family file.

    Raises:
        SparError: the file is not valid, several entries have one id, or an id does not begin with the file's name.
    """
    family = parse(Family, load_yaml(file), str(file))
    combined = itertools.product(*([str(value) for value in values] for values in family.axes.values()))
    words = [dict(zip(family.axes, values, strict=True)) for values in combined]
    members = {str(_filled(family.id, one)): one for one in words}
    if len(members) < len(words):
        raise SparError(f"{file}: 'id' gives several entries one id", "name every axis in it, such as {task}")
    name = file.name.removesuffix(FAMILY)
    if not all(member.startswith(name) for member in members):
        raise SparError(f"{file}: 'id' begins otherwise than the file's name", f"let it begin with {name}")
    return members


def _filled(value: Any, words: dict[str, str]) -> Any:
    """``value`` with ``{axis}`` replaced by its word in every text."""
    if isinstance(value, dict):
        return {key: _filled(item, words) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, words) for item in value]
    if isinstance(value, str):
        for axis, word in words.items():
            value = value.replace(f"{{{axis}}}", word)
    return value
