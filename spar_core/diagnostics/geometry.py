"""The geometry of one seed's residuals, from anchor, residual model and data alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.diagnostics import residuals
from spar_core.diagnostics.dimension import Neighbourly, dimensions, neighbourly
from spar_core.diagnostics.jacobian import Spectrum, contraction, jacobian, spectrum
from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.modality import Modality, modality
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.states import States, similar_steps, states_at
from spar_core.evenly import evenly
from spar_core.improvement.base import Frozen
from spar_core.training.randomness import stream


def geometry_of(
    dataset: Dataset,
    data: DeviceData,
    frozen: Frozen,
    settings: DiagnosisSettings,
    seed: int,
    similar: list[np.ndarray],
) -> Findings:
    """All measurements of the stage ``geometry``, for the frozen parts of one seed.

    Args:
        dataset: the logged data.
        data: the dataset's arrays on the device.
        frozen: anchor and residual model.
        settings: of the section ``diagnosis``.
        seed: of the parts. It also seeds the bootstrap.
        similar: the training steps similar to each step of :func:`looked_up`.
    """
    found = Findings(seed)
    radius = frozen.residual.radius[0].cpu().numpy().astype(np.float64)
    found.profile("geometry/radius", range(len(radius)), radius)
    splits = {"train": dataset.train_steps, "heldout": dataset.heldout_steps}
    states = {name: states_at(dataset, data, frozen, evenly(steps, settings.states)) for name, steps in splits.items()}
    for name, at in states.items():
        residuals.describe(found, name, at.residuals, radius, _over(at, settings, seed))
    _pooled(found, states["train"], radius, settings, seed)
    _local(found, dataset, data, frozen, similar, radius, settings, seed)
    _decoder(found, frozen, states["heldout"], radius, settings, seed)
    return found


def looked_up(dataset: Dataset, settings: DiagnosisSettings) -> np.ndarray:
    """The held-out steps whose similar training steps are looked up, the same for every seed and rule."""
    steps = dataset.heldout_steps
    return evenly(steps, settings.neighbourhoods)


def neighbourhoods(dataset: Dataset, settings: DiagnosisSettings) -> list[np.ndarray]:
    """The training steps similar to each step of :func:`looked_up`."""
    return similar_steps(dataset, looked_up(dataset, settings), settings.neighbours, settings.spacing)


def _over(states: States, settings: DiagnosisSettings, seed: int) -> Episodes:
    return Episodes(states.episodes, settings.resamples, settings.confidence, seed)


def _pooled(found: Findings, states: States, radius: np.ndarray, settings: DiagnosisSettings, seed: int) -> None:
    """Dimension and modality of the residuals of all states together."""
    cloud = states.residuals / radius
    near = neighbourly(cloud, states.episodes, settings.dimension_neighbours)
    bootstrap = (settings.resamples, settings.confidence, seed)
    found.add(*dimensions(near, ("geometry/pooled_dimension_twonn", "geometry/pooled_dimension_mle"), bootstrap))
    shape = modality(cloud, settings.cluster_share)
    found.number("geometry/pooled_dip", shape.dip if shape else None)
    found.number("geometry/pooled_dip_p", shape.p if shape else None)
    found.number("geometry/pooled_clusters", shape.clusters if shape else None)
    found.number("geometry/pooled_fragmentation", shape.fragmentation if shape else None)


def _local(
    found: Findings,
    dataset: Dataset,
    data: DeviceData,
    frozen: Frozen,
    similar: list[np.ndarray],
    radius: np.ndarray,
    settings: DiagnosisSettings,
    seed: int,
) -> None:
    """Dimension and modality within neighbourhoods, with intervals over the held-out episodes of their states."""
    every = states_at(dataset, data, frozen, np.unique(np.concatenate(similar)))
    clouds, episodes = every.residuals / radius, every.episodes
    rows = [np.searchsorted(every.steps, steps) for steps in similar]
    asked = dataset.episode[looked_up(dataset, settings)]
    over = Episodes(asked, settings.resamples, settings.confidence, seed)
    shapes = [modality(clouds[row], settings.cluster_share) for row in rows]

    def values(of: Callable[[Modality], float]) -> np.ndarray:
        return np.array([np.nan if shape is None else float(of(shape)) for shape in shapes])

    found.add(
        over.mean("geometry/local_episodes", np.array([float(len(set(episodes[row]))) for row in rows])),
        over.mean("geometry/local_dip", values(lambda shape: shape.dip)),
        over.mean("geometry/local_split_share", values(lambda shape: shape.p < settings.dip_level)),
        over.mean("geometry/local_clusters", values(lambda shape: shape.clusters)),
        over.mean("geometry/local_fragmentation", values(lambda shape: shape.fragmentation)),
    )
    # A neighbourhood is small, so fewer neighbours are used within it.
    k = min(settings.dimension_neighbours, settings.neighbours // 4)
    parts = [neighbourly(clouds[row], episodes[row], k) for row in rows]
    together = Neighbourly(
        np.concatenate([part.first_two for part in parts]),
        np.concatenate([part.inverse for part in parts]),
        np.concatenate([np.full(len(part.groups), asked[i]) for i, part in enumerate(parts)]),
    )
    bootstrap = (settings.resamples, settings.confidence, seed)
    found.add(*dimensions(together, ("geometry/local_dimension_twonn", "geometry/local_dimension_mle"), bootstrap))


def _decoder(
    found: Findings, frozen: Frozen, states: States, radius: np.ndarray, settings: DiagnosisSettings, seed: int
) -> None:
    """Singular values of the decoder's Jacobian at latent 0 and at draws of the prior, and the volume of its box."""
    over = _over(states, settings, seed)
    size = frozen.residual.latent_size
    drawn = torch.randn(len(states.steps), size, generator=stream(seed, "diagnosis/jacobian"))
    zero = states.base.new_zeros(1, len(states.steps), size)
    for name, latents in (("zero", zero), ("prior", drawn.unsqueeze(0).to(zero.device))):
        at: Spectrum = spectrum(jacobian(frozen.residual, states.observations, states.base, latents))
        found.add(
            over.mean(f"geometry/largest_singular_{name}", at.values[:, 0]),
            over.mean(f"geometry/effective_rank_{name}", at.effective_rank),
            over.mean(f"geometry/weak_share_{name}", at.weak(settings.weak_share).mean(axis=1)),
        )
        for k in range(at.values.shape[1]):
            shares = np.percentile(at.values[:, k], residuals.SHARES)
            found.profile(f"geometry/singular_{name}/{k}", residuals.SHARES, shares)
    box, reach = contraction(radius, states.base[0].cpu().numpy().astype(np.float64))
    found.number("geometry/log10_box", box)
    found.add(over.mean("geometry/log10_reach", reach))
