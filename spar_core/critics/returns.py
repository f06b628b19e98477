r"""Regression on observed discounted returns, and nothing else (Monte Carlo).

.. math::
   L = \mathbb{E} \Big[ \sum_i \big( Q_i(s_t, a_t) - R_t \big)^2 + \big( V(s_t) - R_t \big)^2 \Big],
   \quad R_t = \sum_{k=t}^{T-1} \gamma^{k-t} r_k + \gamma^{T-t} (1 - \mathrm{terminated}) V(s_T)

Source: the plainest value estimate there is; Peng et al. 2019 (AWR, arXiv 1910.00177) use it as the critic of weighted
regression. Deviation: V continues truncated episodes, as in the warm start of the other critics. This critic is that
warm start (:mod:`spar_core.critics.warm_start`) and no more.

On data of several policies, an action is credited with what the policy that took it did later.
The conservative value is :math:`Q_c = \min_i Q_i` of twins.
"""

from __future__ import annotations

from spar_core.critics.stacked import Problem, StackedCritic, StackedSettings
from spar_core.critics.warm_start import warm_start
from spar_core.training.context import Context
from spar_core.training.fitted import Fitted


class ReturnsSettings(StackedSettings):
    """Settings of the regression on returns."""


class ReturnsCritic(StackedCritic):
    """Twin Q networks and a V network, S seeds side by side."""

    Settings = ReturnsSettings
    conservatism = "minimum of two networks, of observed returns"

    @classmethod
    def fit(cls, context: Context, settings: ReturnsSettings) -> Fitted:
        problem = Problem.of(context, settings)
        critic = cls.fresh(problem)
        warm_start(critic, problem, settings.steps, settings.adam(critic.networks, critic.state_value))
        return critic.finish(problem)
