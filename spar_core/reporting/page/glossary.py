"""One plain sentence for every diagnostic that the stages hand to the report."""

from __future__ import annotations

GLOSSARY = {
    "anchor/heldout_mse": "mean squared error of the anchor's action on held-out episodes, with actions scaled "
    "to [-1, 1]; lower is a closer clone of the data",
    "anchor/train_mse": "mean squared error of the anchor's action on training steps, as many as the held-out ones; a "
    "value far below the held-out error means that the anchor memorises",
    "anchor/coverage_distance": "mean distance from a held-out logged action to the nearest of 32 draws of the anchor "
    "(to its one action, where the anchor is deterministic), with actions scaled to [-1, 1]; low means that the anchor "
    "can do what the data do",
    "anchor/heldout_log_density": "mean log density, in nats, of held-out logged actions under the anchor, where the "
    "anchor has a density; higher is closer to the data. Densities of different kinds of anchor are hard to compare",
    "anchor/bimodal_share": "share of held-out states whose nearest training states act in two clearly separate ways; "
    "this is a property of the data, not of the anchor",
    "anchor/modes_missed": "in states where the data act in two separate ways, the share of these ways that no draw of "
    "the anchor comes near: with 0 it reaches both, with 0.5 it reaches one",
    "anchor/parameters": "number of parameters of the fitted anchor, per seed (stored numbers for nearest neighbours)",
    "round/number": "number of the round that made the anchor from an improved policy",
    "round/accepted": "1 where the policy became the anchor, 0 where the seed kept the anchor of the round before",
    "round/deviation_mean": "mean distance of the new anchor's held-out actions from those of the policy that it was "
    "distilled from, in units of the action box",
    "round/deviation_largest": "largest of these distances",
    "round/off_support_share": "share of held-out steps at which the policy to be distilled acts farther from the "
    "logged actions of similar states than 95% of the held-out logged actions do; too high a share stops the seed",
    "round/critic_gain": "the critic's value of the policy's actions minus its value of the anchor's actions on "
    "held-out steps, in scaled rewards; where a loss is not ruled out, the seed stops",
    "residual/parameters": "number of parameters of the residual model, per seed",
    "critic/parameters": "number of parameters of the critic, per seed",
    "improvement/parameters": "number of parameters that the rule itself trains, per seed",
    "policy/parameters": "number of parameters that the whole policy needs to act, per seed: those of the anchor, the "
    "residual model and the correction, and of the critic where the policy asks it",
    "residual/radius_mean": "largest residual that the residual model can give, averaged over action dimensions; "
    "actions lie in [-1, 1]",
    "residual/box_share": "volume of the box of residuals as a share of the whole action box: how much the search is "
    "narrowed",
    "residual/clipped_share": "share of the data's residuals that lie outside the box of residuals",
    "residual/norm_train": "mean length of the residuals on training episodes",
    "residual/norm_heldout": "mean length of the residuals on held-out episodes; a value well above that of training "
    "means that the anchor memorises, and that the radius is too small",
    "residual/norm_at_zero_latent": "mean length of the residual at latent 0: how far from the anchor `spar_proj` "
    "starts",
    "residual/reconstruction": "squared error of the residual model in the last batch, in units of the radius",
    "residual/kl": "information that the latent carries about a residual in the last batch, in nats",
    "critic/gap_best_tenth": "critic minus observed return on the best tenth of the held-out episodes, in "
    "standard deviations of the observed returns; clearly below zero means that good behaviour is underrated. A value "
    "near zero is necessary, not sufficient: it does not show that actions are ranked rightly",
    "critic/gap_before_termination": "critic minus observed return in the last steps before a termination, in standard "
    "deviations of the observed returns; clearly above zero means that the critic does not foresee terminations",
    "critic/rank_correlation": "Spearman correlation of critic and observed return over held-out steps",
    "critic/q_mean_heldout": "the critic's mean value of held-out actions, in its scaled rewards",
    "critic/reward_scale": "factor by which rewards are multiplied in the critic's training",
    "critic/uncertainty_heldout": "standard deviation among the critic's own networks at held-out logged actions, in "
    "scaled rewards; 0 for a critic of one network",
    "critic/uncertainty_random": "standard deviation among the critic's own networks at random actions in held-out "
    "states, in scaled rewards; higher than at logged actions where the critic knows the limits of its data",
    "improvement/q": "the critic's mean value of the rule's own actions in the last batch, in scaled rewards",
    "improvement/bc_loss": "mean squared error of the rule's actions against the logged ones in the last batch, with "
    "actions scaled to [-1, 1]: the term that holds the value gradient near the data",
    "improvement/correction_norm": "mean length of the learned correction, with actions scaled to [-1, 1]",
    "improvement/effective_candidates": "number of the K drawn candidates that carry the weight in a state; near K the "
    "critic hardly prefers any, near 1 a single candidate gets all weight",
    "improvement/anchor_weight": "mean weight of the anchor among its own candidates; 0 where it is none of them",
    "improvement/chosen": "what the rule chose to deploy: 0 for the anchor, j for its j-th candidate",
    "improvement/value_spread": "median standard deviation of the critic's values among the candidates of a state, in "
    "scaled rewards; the temperature of the weights is in units of this spread",
    "improvement/loss": "regression error of the rule in the last batch, in squared units of the radius (latent units "
    "for `spar_proj`, units of the action box for `awr_scratch`); the objective for `value_gradient`",
    "improvement/q_loss": "mean squared error of the critics that `td3_bc` and `rebrac` train beside their policy, in "
    "squared rewards; `improvement/q` is then their value of its actions, and `improvement/loss` its objective",
    "improvement/weight_mean": "mean weight of a logged action in advantage-weighted regression",
    "improvement/weight_clipped_share": "share of logged actions whose weight reached the largest allowed",
    "fqe/clipped_share": "share of the logged steps after which fitted-Q evaluation puts the policy's value outside "
    "what the logged rewards allow; a share well above 0 means that the estimate runs away where the policy leaves "
    "the data, or that the policy earns the largest (or smallest) reward at nearly every step",
    "improvement/step0_norm": "distance of the policy from its anchor before training; exactly 0 for `spar_mlp`",
}


def explain(key: str) -> str | None:
    """The glossary sentence of a diagnostic, or None for an unknown diagnostic."""
    return GLOSSARY.get(key)
