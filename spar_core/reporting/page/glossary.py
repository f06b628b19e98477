"""Plain words for the diagnostics that stages hand to the report."""

from __future__ import annotations

GLOSSARY = {
    "anchor/heldout_mse": "mean squared error of the anchor's action on held-out episodes, with actions scaled "
    "to [-1, 1]; lower is a closer clone of the data",
    "anchor/train_mse": "the same on an equal share of the training steps; far below the held-out error means "
    "that the anchor memorises",
    "anchor/coverage_distance": "mean distance from a held-out logged action to the nearest of 32 draws of the anchor "
    "(its one action, where it has no chance), with actions scaled to [-1, 1]; low means that the anchor can do what "
    "the data do",
    "anchor/heldout_log_density": "mean log density, in nats, of held-out logged actions under the anchor, where it "
    "has a density; higher is closer to the data. Densities of unlike kinds of anchor are hard to compare",
    "anchor/bimodal_share": "share of held-out states whose nearest training states act in two clearly separate ways; "
    "it belongs to the data, not to the anchor",
    "anchor/modes_missed": "of the two ways of acting in such states, the share that none of the anchor's draws comes "
    "near: 0 reaches both, 0.5 reaches one",
    "anchor/parameters": "numbers that the fitted anchor holds, one seed (for nearest neighbours, its stored data)",
    "round/number": "round that made the anchor from an improved policy",
    "round/accepted": "1 where the policy became the anchor, 0 where the seed kept the anchor of the round before",
    "round/off_support_share": "share of held-out steps at which the policy to be distilled acts further from the "
    "logged actions of similar states than 95% of the held-out logged actions do; too high a share stops the seed",
    "round/critic_gain": "the critic's value of that policy's actions minus that of its anchor's on held-out steps, in "
    "scaled rewards; where a loss is not ruled out the seed stops",
    "residual/parameters": "numbers that the residual model holds, one seed",
    "critic/parameters": "numbers that the critic holds, one seed",
    "improvement/parameters": "numbers that the rule itself trains, one seed",
    "policy/parameters": "numbers that the whole policy holds to act, one seed: the anchor, the residual model "
    "and the correction, and the critic where acting asks it",
    "residual/radius_mean": "largest residual that the residual model can give, mean over action dimensions; "
    "actions lie in [-1, 1]",
    "residual/box_share": "volume of the box of residuals as a share of the whole action box: how far the "
    "search has been narrowed",
    "residual/clipped_share": "share of the data's residuals that lie outside that box",
    "residual/norm_train": "mean length of the residuals, training episodes",
    "residual/norm_heldout": "mean length of the residuals, held-out episodes; well above the training value "
    "means that the anchor memorises, and that the radius is too small",
    "residual/norm_at_zero_latent": "mean length of the residual at latent 0: how far `spar_proj` starts from "
    "the anchor",
    "residual/reconstruction": "squared error of the residual model, in units of the radius, last batch",
    "residual/kl": "information that the latent carries about a residual, in nats, last batch",
    "critic/gap_best_tenth": "critic minus observed return on the best tenth of the held-out episodes, in "
    "standard deviations of the observed returns; clearly below zero means that good behaviour is underrated. "
    "Near zero is necessary, not sufficient: it does not show that actions are ranked rightly",
    "critic/gap_before_termination": "the same in the last steps before a termination; clearly above zero "
    "means that the critic does not see falls coming",
    "critic/rank_correlation": "Spearman correlation of critic and observed return over held-out steps",
    "critic/q_mean_heldout": "mean value of held-out actions, in the critic's scaled rewards",
    "critic/reward_scale": "factor on rewards in the critic's training",
    "critic/uncertainty_heldout": "standard deviation of the critic's own networks on held-out logged actions, in "
    "scaled rewards; 0 for a critic of one network",
    "critic/uncertainty_random": "the same on random actions in held-out states; a critic that knows where its data "
    "end doubts these more",
    "improvement/q": "mean critic value of the rule's own actions, last batch, in scaled rewards",
    "improvement/bc_loss": "mean squared error of the rule's actions against the logged ones, last batch, with actions "
    "scaled to [-1, 1]: what holds the value gradient near the data",
    "improvement/correction_norm": "mean length of the learned correction, with actions scaled to [-1, 1]",
    "improvement/effective_candidates": "how many candidates carry the weight in a state, of the K drawn; near K "
    "means that the critic hardly prefers any, near 1 that one is taken greedily",
    "improvement/anchor_weight": "mean weight of the anchor among its own candidates; 0 where it is none of them",
    "improvement/chosen": "what the rule chose to deploy: 0 for the anchor, j for the j-th of its candidates",
    "improvement/value_spread": "median standard deviation of the critic's values among a state's candidates, in "
    "scaled rewards; weights are in units of it",
    "improvement/loss": "regression error of the rule, last batch; in squared units of the radius (latent units "
    "for `spar_proj`, units of the action box for `awr_scratch`); for `value_gradient` its objective",
    "improvement/weight_mean": "mean weight of a logged action in advantage-weighted regression",
    "improvement/weight_clipped_share": "share of logged actions whose weight reached the largest allowed",
    "fqe/clipped_share": "share of fitted-Q evaluation's last minibatch whose next value lay beyond what the logged "
    "rewards allow and was cut back; well above 0 means that the estimate ran away where the policy leaves the data, "
    "or that the policy earns the largest (or smallest) reward at nearly every step",
    "improvement/step0_norm": "distance of the policy from its anchor before training; exactly 0 for `spar_mlp`",
}


def explain(key: str) -> str | None:
    """The glossary line of a diagnostic, or None for one without."""
    return GLOSSARY.get(key)
