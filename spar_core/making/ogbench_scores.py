"""What the scores on a task of OGBench are, and whether published ones may stand beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_ogbench(manifest: Mapping[str, Any]) -> bool:
    """Whether a dataset is a task of OGBench. Its rewards are those of training, and its evaluation returns success."""
    return bool(manifest["source"].get("kind") == "ogbench")


def label_of(manifest: Mapping[str, Any]) -> str:
    """The unit of the scores, and why published ones do not compare, if they do not."""
    source = manifest["source"]
    label = f"percentage of episodes that solve the task, with OGBench's success_timing '{_timing(manifest)}'"
    if source["training_episodes"] != source["released_episodes"]:
        label += (
            f"; trained on {source['training_episodes']} of the {source['released_episodes']} published episodes: not "
            "comparable with published scores"
        )
    return label


def published_of(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Which published scores the report shows, and why they do not compare with ours, if they do not."""
    source = manifest["source"]
    differs = ""
    if source["training_episodes"] != source["released_episodes"]:
        differs = f"they are of all {source['released_episodes']} published episodes"
    note = (
        f"Rows `fql:` were measured with OGBench 1.1.0, whose success_timing is 'post'; ours is '{_timing(manifest)}'."
    )
    return {"suite": "ogbench-singletask", "task": source["task"], "differs": differs, "note": note}


def _timing(manifest: Mapping[str, Any]) -> Any:
    return manifest["environment"]["env_kwargs"].get("success_timing")
