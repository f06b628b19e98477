"""Write a prepared dataset: its episodes, the held-out split, the scaler, and the manifest."""

from __future__ import annotations

from spar_core.artifacts import new_artifact, write_json, write_meta
from spar_core.data.collected import Collected
from spar_core.data.entry import Entry
from spar_core.data.loading import KIND, MANIFEST, SCALER, SPLIT, DataPlace
from spar_core.data.prepare import Prepared
from spar_core.data.readers.minari_io import write_minari


def write_dataset(place: DataPlace, entry: Entry, data: Collected, prepared: Prepared) -> None:
    """Write episodes, split, scaler, manifest and meta to their place; an older dataset there is replaced."""
    with new_artifact(place.minari_root / place.dataset) as minari, new_artifact(place.folder) as folder:
        write_minari(
            minari,
            place.dataset,
            data.episodes,
            action_low=data.environment.action_low,
            action_high=data.environment.action_high,
            env_id=data.environment.env_id,
            env_kwargs=data.environment.env_kwargs,
            # A dataset's description stays in its entry, so that rewording it retrains nothing.
            description=f"see datasets/{place.dataset}.yaml",
        )
        write_json(folder / SPLIT, prepared.split)
        write_json(folder / SCALER, prepared.scaler.to_dict())
        write_json(folder / MANIFEST, prepared.manifest)
        shapes = {name: prepared.manifest[name] for name in ("episodes", "steps", "observation_size", "action_size")}
        params = entry.recipe("not_evaluated")
        write_meta(folder, KIND, params=params, inputs=data.inputs, shapes=shapes)
