"""The meaning of each number: its unit, what it measures, and one plain sentence that reads a value.

A sentence says no more than the number does. docs/diagnostics.md says what the number cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# Values by name, for sentences that compare two numbers.
Others = Mapping[str, float]
Sentence = Callable[[float, Others], str]

BOX = "action box [-1, 1]"
LATENT = "action units per standard deviation of the latent"
Q = "scaled reward units"


@dataclass(frozen=True)
class Meaning:
    """Unit of a number, what it measures, and the function that writes its sentence."""

    unit: str
    what: str
    sentence: Sentence


def percent(share: float) -> str:
    """A share in percent, with one decimal below 1%."""
    return f"{100 * share:.1f}%" if 0 < abs(share) < 0.01 else f"{100 * share:.0f}%"


def _length(of: str) -> Sentence:
    return lambda v, _: f"{of} has a mean length of {v:.2f}, where an action dimension spans 2."


def _dimension(where: str) -> Sentence:
    return lambda v, _: (
        f"{where}, residuals spread like points of about {v:.1f} dimensions; an estimate, low where points are few."
    )


def _pooled_p(v: float, _: Others) -> str:
    if v < 0.05:
        return "Over all states together residuals have more than one mode; unlike states alone can give that."
    return "Over all states together no second mode of the residuals is shown."


def _split(v: float, _: Others) -> str:
    told = f"Among similar states residuals split into modes in {percent(v)} of the neighbourhoods"
    return f"{told}, no more than chance gives at this level." if v <= 0.05 else f"{told} (chance alone: up to 5%)."


def _clusters(where: str) -> Sentence:
    return lambda v, _: f"{where}, a density method finds {v:.1f} cluster{'' if round(v, 1) == 1 else 's'}."


def _fragments(where: str) -> Sentence:
    return lambda v, _: (
        f"{where}, {percent(v)} of the clustered residuals lie outside the largest cluster (0 is one piece)."
    )


def _rank(where: str) -> Sentence:
    return lambda v, _: f"{where} the decoder moves in about {v:.1f} directions of action space."


def _weak(where: str) -> Sentence:
    return lambda v, _: (
        f"{where} {percent(v)} of the directions are weak: "
        + ("there is no normal space to stay out of." if v < 0.005 else "moves along them are damped, not forbidden.")
    )


def _volume(of: str) -> Sentence:
    return lambda v, _: (
        f"{of} is the whole action box: nothing is narrowed."
        if v > -0.005
        else f"{of} holds 10^{v:.1f} of the action box's volume."
    )


def _ratio(whose: str) -> Sentence:
    def say(v: float, _: Others) -> str:
        side = "as near to" if 0.95 <= v <= 1.05 else "nearer to" if v < 1 else "farther from"
        than = "as" if 0.95 <= v <= 1.05 else "than"
        return f"{whose} lie {side} logged actions of similar states {than} held-out logged ones do ({v:.2f} times)."

    return say


def _farther(whose: str) -> Sentence:
    return lambda v, _: f"In {percent(v)} of the states {whose} lies farther from the data than the logged action."


def _weak_move(of: str) -> Sentence:
    def say(v: float, others: Others) -> str:
        chance = others.get("diagnosis/random_weak_share")
        beside = "" if chance is None else f"; a random direction would have {percent(chance)}"
        return f"{percent(v)} of the squared length of the {of} is along weak directions{beside}."

    return say


def _conflict(when: str) -> Sentence:
    trap = "" if when else "; late in training that is no finding by itself"
    return lambda v, _: (
        f"Fitting and improvement gradients point apart at {percent(v)} of the probed steps{when}{trap}."
    )


def _cosine_late(v: float, _: Others) -> str:
    why = "; near -1 is what convergence looks like, and no finding" if v < -0.8 else ""
    return f"In the last quarter of training their cosine is {v:+.2f} on average{why}."


def _effective(v: float, others: Others) -> str:
    k = others.get("diagnosis/candidates_drawn")
    among = "" if k is None else f" of {k:.0f}"
    return f"{v:.1f}{among} candidates carry the weight in a state; near all, the critic hardly prefers any."


def _disagreement(whose: str) -> Sentence:
    return lambda v, _: (
        f"The critic has one network, so its doubt about {whose} cannot be told."
        if v == 0
        else f"The critic's networks differ by {v:.2g} at {whose}; agreement would not make them right."
    )


MEANINGS: dict[str, Meaning] = {
    "geometry/norm_train": Meaning(BOX, "mean length of residuals, training steps", _length("A residual of training")),
    "geometry/norm_heldout": Meaning(BOX, "the same, held-out steps", _length("A held-out residual")),
    "geometry/at_radius_train": Meaning(
        "share",
        "residual components at or beyond the radius, training steps",
        lambda v, _: f"{percent(v)} of the components reach the radius, where the residual model is cut off.",
    ),
    "geometry/at_radius_heldout": Meaning(
        "share",
        "the same, held-out steps",
        lambda v, others: (
            f"{percent(v)} of held-out components reach it"
            + (
                ", far more than in training: the radius is too small for new episodes."
                if v > 3 * others.get("geometry/at_radius_train", v) + 0.01
                else ", about as in training."
            )
        ),
    ),
    "geometry/pooled_dimension_twonn": Meaning(
        "dimensions", "TwoNN, all states together", _dimension("Over all states (TwoNN)")
    ),
    "geometry/pooled_dimension_mle": Meaning(
        "dimensions", "Levina-Bickel, all states together", _dimension("Over all states (maximum likelihood)")
    ),
    "geometry/local_dimension_twonn": Meaning(
        "dimensions", "TwoNN, similar states", _dimension("Among similar states (TwoNN)")
    ),
    "geometry/local_dimension_mle": Meaning(
        "dimensions", "Levina-Bickel, similar states", _dimension("Among similar states (maximum likelihood)")
    ),
    "geometry/pooled_dip": Meaning(
        "share",
        "Hartigan's dip, first principal direction, all states together",
        lambda v, _: f"The pooled residuals' distribution lies {v:.3f} from the nearest unimodal one.",
    ),
    "geometry/pooled_dip_p": Meaning("p-value", "of the dip test over two principal directions, pooled", _pooled_p),
    "geometry/pooled_clusters": Meaning("clusters", "HDBSCAN, all states together", _clusters("Over all states")),
    "geometry/pooled_fragmentation": Meaning(
        "share", "fragmentation index (ours), all states together", _fragments("Over all states")
    ),
    "geometry/local_episodes": Meaning(
        "episodes",
        "distinct episodes in a neighbourhood of similar states",
        lambda v, _: f"A neighbourhood holds steps of {v:.0f} episodes; the fewer, the less a p-value there is worth.",
    ),
    "geometry/local_dip": Meaning(
        "share",
        "Hartigan's dip, first principal direction, similar states",
        lambda v, _: f"Among similar states the distribution lies {v:.3f} from the nearest unimodal one, on average.",
    ),
    "geometry/local_split_share": Meaning("share", "neighbourhoods whose dip test rejects one mode", _split),
    "geometry/local_clusters": Meaning("clusters", "HDBSCAN, similar states", _clusters("Among similar states")),
    "geometry/local_fragmentation": Meaning(
        "share", "fragmentation index (ours), similar states", _fragments("Among similar states")
    ),
    "geometry/largest_singular_zero": Meaning(
        LATENT,
        "largest singular value of dG/dz at z = 0",
        lambda v, _: f"A step of one standard deviation of the latent moves the action by {v:.2g} at most, near z = 0.",
    ),
    "geometry/effective_rank_zero": Meaning("directions", "participation ratio at z = 0", _rank("At latent 0")),
    "geometry/weak_share_zero": Meaning(
        "share", "directions under a tenth of the largest, z = 0", _weak("At latent 0")
    ),
    "geometry/largest_singular_prior": Meaning(
        LATENT, "the same at draws of the prior", lambda v, _: f"At draws of the prior it is {v:.2g}."
    ),
    "geometry/effective_rank_prior": Meaning(
        "directions", "the same at draws of the prior", _rank("At draws of the prior")
    ),
    "geometry/weak_share_prior": Meaning("share", "the same at draws of the prior", _weak("At draws of the prior")),
    "geometry/log10_box": Meaning(
        "log10 of a share", "volume of the radius box against the action box", _volume("The box of residuals")
    ),
    "geometry/log10_reach": Meaning(
        "log10 of a share",
        "of that box, about the anchor's action, what lies inside the action box",
        _volume("What the radius reaches from the anchor's action"),
    ),
    "diagnosis/distance_logged": Meaning(
        BOX,
        "mean distance of the held-out logged action to the nearest logged ones of similar states",
        lambda v, _: f"The yardstick: held-out logged actions lie {v:.2f} from logged actions of similar states.",
    ),
    "diagnosis/distance_anchor": Meaning(
        BOX, "the same of the anchor's action", lambda v, _: f"Anchor actions lie {v:.2f} from them."
    ),
    "diagnosis/distance_repaired": Meaning(
        BOX, "the same of anchor plus mean candidate", lambda v, _: f"Repaired actions lie {v:.2f} from them."
    ),
    "diagnosis/distance_policy": Meaning(
        BOX, "the same of the policy's action", lambda v, _: f"Policy actions lie {v:.2f} from them."
    ),
    "diagnosis/distance_ratio_anchor": Meaning(
        "ratio", "anchor's distance over the yardstick", _ratio("Anchor actions")
    ),
    "diagnosis/distance_ratio_repaired": Meaning(
        "ratio", "repaired action's distance over the yardstick", _ratio("Repaired actions")
    ),
    "diagnosis/distance_ratio_policy": Meaning(
        "ratio", "policy's distance over the yardstick", _ratio("Policy actions")
    ),
    "diagnosis/farther_anchor": Meaning("share", "states where it is farther than the logged", _farther("the anchor")),
    "diagnosis/farther_repaired": Meaning("share", "the same of the repaired action", _farther("the repaired action")),
    "diagnosis/farther_policy": Meaning("share", "the same of the policy", _farther("the policy")),
    "diagnosis/total_length": Meaning(BOX, "mean length of policy minus anchor", _length("The policy's correction")),
    "diagnosis/repair_length": Meaning(BOX, "mean length of the mean candidate", _length("The repair")),
    "diagnosis/improvement_length": Meaning(
        BOX, "mean length of the correction minus the mean candidate", _length("What the critic adds")
    ),
    "diagnosis/total_weak_share": Meaning(
        "share", "of its squared length along weak directions", _weak_move("correction")
    ),
    "diagnosis/repair_weak_share": Meaning("share", "the same of the repair", _weak_move("repair")),
    "diagnosis/improvement_weak_share": Meaning("share", "the same of the improvement", _weak_move("improvement")),
    "diagnosis/random_weak_share": Meaning(
        "share",
        "the same of a random direction",
        lambda v, _: f"The yardstick: a random direction has {percent(v)} of its squared length along weak ones.",
    ),
    "diagnosis/effective_candidates": Meaning("candidates", "1 / sum of squared weights", _effective),
    "diagnosis/candidates_drawn": Meaning("candidates", "K", lambda v, _: f"{v:.0f} candidates are drawn in a state."),
    "diagnosis/disagreement_logged": Meaning(
        Q, "standard deviation of the critic's networks at logged actions", _disagreement("logged actions")
    ),
    "diagnosis/disagreement_anchor": Meaning(Q, "the same at the anchor's", _disagreement("the anchor's actions")),
    "diagnosis/disagreement_policy": Meaning(Q, "the same at the policy's", _disagreement("the policy's actions")),
    "diagnosis/disagreement_ratio": Meaning(
        "ratio",
        "at the policy's actions over at logged ones",
        lambda v, _: f"The critic's networks disagree {v:.2f} times as much at the policy's actions as at logged ones.",
    ),
    "diagnosis/conflict_share": Meaning("share", "probed steps with a negative cosine", _conflict("")),
    "diagnosis/conflict_early": Meaning(
        "share", "the same in the first quarter of training", _conflict(" of the first quarter")
    ),
    "diagnosis/cosine_early": Meaning(
        "cosine",
        "mean cosine of the two gradients, first quarter",
        lambda v, _: f"In the first quarter of training their cosine is {v:+.2f} on average.",
    ),
    "diagnosis/cosine_late": Meaning("cosine", "the same, last quarter", _cosine_late),
}
