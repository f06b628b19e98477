"""What one seed's rule does: distance to the data, directions of its moves, gradients, candidates and disagreement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from spar_core.data.dataset import Dataset
from spar_core.data.device import DeviceData
from spar_core.diagnostics import displacement, nearness
from spar_core.diagnostics.candidates import disagreement
from spar_core.diagnostics.geometry import looked_up
from spar_core.diagnostics.jacobian import jacobian, spectrum
from spar_core.diagnostics.measures import Episodes, Findings
from spar_core.diagnostics.residuals import SHARES
from spar_core.diagnostics.settings import DiagnosisSettings
from spar_core.diagnostics.states import States, states_at
from spar_core.evenly import evenly
from spar_core.improvement.base import Frozen, Improvement
from spar_core.improvement.gradients import COSINE, FITTING, IMPROVEMENT
from spar_core.improvement.self_imitation import SelfImitationSettings, draw_candidates
from spar_core.training.checkpoints import CurveRow
from spar_core.training.networks import CHUNK
from spar_core.training.randomness import stream

# c of a rule that clips no latent: the default of those that do.
USUAL_CLIP = 1.0


@dataclass(frozen=True)
class Subject:
    """One seed of a cell: its rule as deployed, and frozen parts with the critic, which the rule may not hold."""

    seed: int
    rule: Improvement
    frozen: Frozen


def diagnosis_of(
    dataset: Dataset, data: DeviceData, subject: Subject, settings: DiagnosisSettings, similar: list[np.ndarray]
) -> Findings:
    """The measures of one seed, but for those of gradients, which training recorded.

    Args:
        dataset: as training sees it.
        data: the same on the device.
        subject: the rule and its parts.
        settings: of the diagnosis.
        similar: the training steps similar to each state of :func:`spar_core.diagnostics.geometry.looked_up`.
    """
    found = Findings(subject.seed)
    heldout = dataset.heldout_steps
    states = states_at(dataset, data, subject.frozen, evenly(heldout, settings.states))
    near = states_at(dataset, data, subject.frozen, looked_up(dataset, settings))
    _distances(found, dataset, near, subject, settings, similar)
    policy = act(subject.rule, states)
    base = states.base[0].cpu().numpy().astype(np.float64)
    over = Episodes(states.episodes, settings.resamples, settings.confidence, subject.seed)
    zero = states.base.new_zeros(1, len(states.steps), subject.frozen.residual.latent_size)
    at_zero = spectrum(jacobian(subject.frozen.residual, states.observations, states.base, zero))
    repair = mean_candidate(subject, states, settings)
    displacement.describe(found, policy - base, repair, at_zero, settings.weak_share, over)
    _candidates(found, states, subject, over)
    _disagreement(found, states, policy, subject, over)
    return found


def act(rule: Improvement, states: States) -> np.ndarray:
    """The deployed policy's actions [n, A] in [-1, 1]."""
    parts = [rule.act(part)[0] for part in states.observations.split(CHUNK, 1)]
    return torch.cat(parts).cpu().numpy().astype(np.float64)


def mean_candidate(subject: Subject, states: States, settings: DiagnosisSettings) -> np.ndarray:
    """E[d] [n, A] for the rule's own clipping of latents."""
    clip = getattr(subject.rule.settings, "latent_clip", USUAL_CLIP)
    return displacement.mean_candidate(subject.frozen, states, settings.draws, clip, subject.seed)


def _distances(
    found: Findings,
    dataset: Dataset,
    states: States,
    subject: Subject,
    settings: DiagnosisSettings,
    similar: list[np.ndarray],
) -> None:
    base = states.base[0].cpu().numpy().astype(np.float64)
    actions = {
        "logged": states.actions.cpu().numpy().astype(np.float64),
        "anchor": base,
        "repaired": base + mean_candidate(subject, states, settings),
        "policy": act(subject.rule, states),
    }
    by_whom = {
        name: nearness.distances(values, similar, dataset.actions, settings.nearest) for name, values in actions.items()
    }
    nearness.describe(found, by_whom, Episodes(states.episodes, settings.resamples, settings.confidence, subject.seed))


def _candidates(found: Findings, states: States, subject: Subject, over: Episodes) -> None:
    """The effective number of candidates, for a rule that weighs candidates."""
    rule_settings = subject.rule.settings
    if not isinstance(rule_settings, SelfImitationSettings):
        return
    generators = [stream(subject.seed, "diagnosis/candidates")]
    drawn = draw_candidates(subject.frozen, rule_settings, states.observations, states.base, generators)
    effective = drawn.effective[0].cpu().numpy().astype(np.float64)
    found.add(over.mean("diagnosis/effective_candidates", effective))
    found.number("diagnosis/candidates_drawn", float(rule_settings.candidates))
    found.profile("diagnosis/effective_candidates", SHARES, np.percentile(effective, SHARES))


def _disagreement(found: Findings, states: States, policy: np.ndarray, subject: Subject, over: Episodes) -> None:
    chosen = torch.as_tensor(policy, dtype=torch.float32).to(states.base.device).unsqueeze(0)
    actions = {"logged": states.actions.unsqueeze(0), "anchor": states.base, "policy": chosen}
    spreads = {
        name: disagreement(subject.frozen, states.observations, values).cpu().numpy().astype(np.float64)
        for name, values in actions.items()
    }
    for name, values in spreads.items():
        found.add(over.mean(f"diagnosis/disagreement_{name}", values))
        found.profile(f"diagnosis/disagreement_{name}", SHARES, np.percentile(values, SHARES))
    if spreads["logged"].any():
        found.add(over.ratio("diagnosis/disagreement_ratio", spreads["policy"], spreads["logged"]))


def add_gradients(found: Findings, curves: list[CurveRow]) -> None:
    """Add what a policy's learning curves hold of its gradients, and how often they conflicted early and late."""
    mine = [row for row in curves if row[1] == found.seed and row[2] in (COSINE, FITTING, IMPROVEMENT)]
    found.curves += mine
    cosines = np.array([value for _, _, metric, value in sorted(mine) if metric == COSINE])
    if not len(cosines):
        return
    part = max(1, len(cosines) // 4)
    found.number("diagnosis/conflict_share", float((cosines < 0).mean()))
    found.number("diagnosis/conflict_early", float((cosines[:part] < 0).mean()))
    found.number("diagnosis/cosine_early", float(cosines[:part].mean()))
    found.number("diagnosis/cosine_late", float(cosines[-part:].mean()))
