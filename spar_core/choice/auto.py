r"""The rule ``auto``: fit several candidate rules, weigh the evidence for each offline, deploy one or the anchor.

.. math:: \Delta = \Delta_{j^*}, \qquad j^* = \mathrm{decide}(\text{evidence}) \in \{\text{anchor}, 1, \dots, J\}

The candidates differ in variant (SPAR-MLP, SPAR-PROJ), latent radius c and temperature tau. Each is fitted as it would
be alone, to the last bit. The evidence (:mod:`spar_core.choice.evidence`) and the decision
(:mod:`spar_core.choice.decide`) use logged data only. Each seed chooses for itself, so that a seed's policy does not
depend on the seeds beside it. The file ``choice.json`` beside the weights says what was chosen, and why.

Source: this project's own; the paper (arXiv 2605.27877) names the automatic choice of a variant as open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from spar_core.choice import CHOICE
from spar_core.choice.decide import ANCHOR, Choice, DecisionSettings, decide
from spar_core.choice.evidence import Evidence, Trust, gather, trust_in
from spar_core.errors import SparError
from spar_core.evaluation.fqe import FQESettings
from spar_core.improvement.anchor import AnchorAlone
from spar_core.improvement.base import Frozen, Improvement
from spar_core.registry import parse_variant, variant_kind
from spar_core.settings import Settings
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted, only, under
from spar_core.training.reporter import Nested

# Name of the tensor [S, 1] that holds each seed's choice: 0 for the anchor, j for the j-th of ``AutoSettings.names``.
CHOSEN = "chosen"


class AutoSettings(Settings):
    """Settings of the choice among rules."""

    candidates: dict[str, dict[str, Any]] = Field(
        {"spar_proj": {}, "spar_mlp": {}},
        description="rules by name, each with its ``kind`` and settings as in the section ``improvements``",
    )
    # Neither DVC nor an artifact keeps the order of a mapping, so the order cannot break ties.
    preferred: str = Field("spar_proj", description="kind of the candidates that win ties")
    states: PositiveInt = Field(5000, description="held-out states at which a candidate is measured, at most")
    fqe: FQESettings = Field(FQESettings(), description="fitted-Q evaluation of each candidate")
    decision: DecisionSettings = Field(
        DecisionSettings(),
        description="when a candidate is refused, and which of the others is preferred",
    )

    @field_validator("candidates")
    @classmethod
    def _candidates_are_rules(cls, candidates: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if not candidates:
            raise ValueError("name at least one")
        for name, values in candidates.items():
            if name == ANCHOR or values.get("kind", name) in ("auto", ANCHOR):
                raise ValueError(f"'{name}' is no candidate; the anchor always is one")
            try:
                parse_variant("improvement", candidates, name)
            except SparError as error:
                raise ValueError(str(error)) from None
        return candidates

    @property
    def names(self) -> list[str]:
        """Names of the candidates: those of the preferred kind first, each group in alphabetical order."""
        return sorted(self.candidates, key=lambda name: (self._kind(name) != self.preferred, name))

    def _kind(self, name: str) -> str:
        return variant_kind(name, self.candidates[name])

    def members(self) -> dict[str, tuple[type[Improvement], Settings]]:
        """Class and settings of every candidate."""
        return {name: parse_variant("improvement", self.candidates, name) for name in self.names}

    @property
    def steps(self) -> int:
        """Optimiser steps of one seed, in the fits of all candidates."""
        return sum(getattr(settings, "steps", 0) for _, settings in self.members().values())


class Auto(Improvement):
    """One of several rules for each seed, or none.

    Args:
        frozen: the frozen parts of the seeds.
        settings: of the choice.
        rules: by name, those that some seed chose.
        chosen: [S] each seed's choice: 0 for the anchor, j for the j-th of ``AutoSettings.names``.
    """

    Settings = AutoSettings

    def __init__(
        self, frozen: Frozen, settings: AutoSettings, rules: Mapping[str, Improvement], chosen: Sequence[int]
    ) -> None:
        super().__init__(frozen, settings)
        self.rules, self.chosen = dict(rules), list(chosen)

    @classmethod
    def acts_with_critic(cls, settings: AutoSettings) -> bool:
        return any(member.acts_with_critic(of_member) for member, of_member in settings.members().values())

    @classmethod
    def fit(cls, context: Context, frozen: Frozen, settings: AutoSettings) -> Fitted:
        fitted = Fitted()
        rules: dict[str, Improvement] = {}
        for name, (member, of_member) in settings.members().items():
            within = replace(context, report=Nested(context.report, name, prefix=name))
            found = member.fit(within, frozen, of_member)
            rules[name] = member.restore(frozen, of_member, found.tensors, context.device)
            fitted.tensors |= under(name, found.tensors)
        anchor = AnchorAlone(frozen, AnchorAlone.Settings())
        within = replace(context, report=Nested(context.report, "evidence", prefix=None))
        evidence = gather(within, anchor, rules, settings.states, settings.fqe)
        trust = trust_in(frozen.values, context)
        of_seed = [{name: rows[row] for name, rows in evidence.items()} for row in range(len(context.seeds))]
        choices = [decide(*known, settings.decision) for known in zip(trust, of_seed, strict=True)]
        names = [ANCHOR, *settings.names]
        chosen = [names.index(choice.name) for choice in choices]
        fitted.tensors[CHOSEN] = torch.tensor(chosen).unsqueeze(1)
        fitted.metrics = {"improvement/chosen": [float(index) for index in chosen]}
        fitted.curves = context.report.rows
        fitted.documents[Path(CHOICE).stem] = [
            document(*known) for known in zip(context.seeds, trust, of_seed, choices, strict=True)
        ]
        return fitted

    @classmethod
    def restore(
        cls, frozen: Frozen, settings: AutoSettings, tensors: Mapping[str, Tensor], device: str = "cpu"
    ) -> Auto:
        chosen = tensors[CHOSEN].squeeze(1).tolist()
        members = list(settings.members().items())
        # Only rules that some seed chose are restored: a policy is loaded for one seed, and then acts at the cost of
        # the one rule that it chose.
        needed = [members[index - 1] for index in sorted(set(chosen) - {0})]
        rules = {
            name: member.restore(frozen, of_member, only(name, tensors), device) for name, (member, of_member) in needed
        }
        return cls(frozen, settings, rules, chosen)

    def correction(self, observations: Tensor, base: Tensor) -> Tensor:
        """The correction [S, B, A] of the rule that each seed chose, behind that rule's gate."""
        names = [ANCHOR, *self.settings.names]
        each = {name: rule.deployed(observations, base) for name, rule in self.rules.items()}
        none = base.new_zeros(base.shape)
        return torch.stack([each.get(names[index], none)[row] for row, index in enumerate(self.chosen)])


def document(seed: int, trust: Trust, evidence: Mapping[str, Evidence], choice: Choice) -> dict[str, Any]:
    """One seed's entry of ``choice.json``."""
    return {
        "seed": seed,
        "chosen": choice.name,
        "reasons": list(choice.reasons),
        "critic": asdict(trust),
        "evidence": {name: found.numbers() for name, found in evidence.items()},
    }
