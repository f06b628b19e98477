r"""Curves and surfaces that actions lie on, with tangents, curvature and nearest points.

A **cap** is a part of an m-sphere of curvature :math:`\kappa` in :math:`\mathbb{R}^A`. In geodesic normal coordinates
:math:`t \in \mathbb{R}^m` about a point at the origin, with :math:`r = |t|`:

.. math:: x(t) = \frac{\sin \kappa r}{\kappa r} E t + \frac{1 - \cos \kappa r}{\kappa} n, \qquad
   t(a) = \frac{\theta}{\kappa} \frac{E^\top a}{|E^\top a|}, \quad
   \theta = \operatorname{atan2}\big(|E^\top a|, \; 1/\kappa - n^\top a\big)

(E spans the tangent space at the origin, and n is the unit normal there). A cap is an arc for m = 1, a patch of a
sphere for m = 2, and a line or a plane for :math:`\kappa = 0`. The **logarithmic spiral**
:math:`r = r_0 e^{b \theta}` has arc length :math:`s = r \sqrt{1 + b^2} / b` and curvature :math:`1 / (b s)`. Its
nearest point has no closed form, and Newton's method finds it from the best point of a grid.

Source: do Carmo, Differential Geometry of Curves and Surfaces, chapters 1 and 4.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import reduce
from typing import cast

import torch
from torch import Tensor

NAMES = ("line", "arc", "sphere", "arcs", "spiral")
# Points of the grid that the search for the spiral's nearest point starts from, and its steps of Newton's method.
GRID, NEWTON = 1024, 12


def frame(size: int) -> Tensor:
    """An orthonormal basis [A, A] whose vectors are no axes of the action space: a Householder reflection."""
    v = torch.arange(1, size + 1, dtype=torch.float64)
    return torch.eye(size, dtype=torch.float64) - 2 * torch.outer(v, v) / v.square().sum()


class Manifold(ABC):
    """A set of actions in [-1, 1]^A.

    The first m = ``dim`` coordinates of a point are lengths. All methods keep the floating type of their arguments.
    """

    dim: int
    ambient: int

    @property
    @abstractmethod
    def coordinates(self) -> int:
        """C, numbers that name a point."""

    @abstractmethod
    def point(self, t: Tensor) -> Tensor:
        """Actions [..., A] of coordinates [..., C]."""

    @abstractmethod
    def tangents(self, t: Tensor) -> Tensor:
        """Orthonormal basis [..., A, m] of the tangent space."""

    @abstractmethod
    def normal(self, t: Tensor) -> Tensor:
        """Unit normal [..., A] towards the centre of curvature."""

    @abstractmethod
    def curvature(self, t: Tensor) -> Tensor:
        """Curvature [...] per unit of the action box."""

    @abstractmethod
    def project(self, actions: Tensor) -> Tensor:
        """Coordinates [..., C] of the nearest point."""

    def distance(self, actions: Tensor) -> Tensor:
        """Distance [...] to the nearest point, in units of the action box."""
        distance: Tensor = (actions - self.point(self.project(actions))).norm(dim=-1)
        return distance

    def normal_part(self, t: Tensor, vectors: Tensor) -> Tensor:
        """The part of ``vectors`` [..., A] that is normal to the tangent space at ``t``."""
        basis = self.tangents(t)
        along = (basis * vectors.unsqueeze(-1)).sum(-2, keepdim=True)
        return vectors - (basis * along).sum(-1)


@dataclass(frozen=True)
class Cap(Manifold):
    """Points of an m-sphere within geodesic distance ``half`` of the origin; m is 1 or 2, and curvature 0 is flat."""

    dim: int
    bend: float
    half: float
    ambient: int

    @property
    def coordinates(self) -> int:
        return self.dim

    def _basis(self, like: Tensor) -> tuple[Tensor, Tensor]:
        basis = frame(self.ambient).to(like.dtype)
        return basis[:, : self.dim], basis[:, self.dim]

    def point(self, t: Tensor) -> Tensor:
        basis, normal = self._basis(t)
        along = _combine(basis, t)
        if self.bend == 0:
            return along
        r = t.norm(dim=-1, keepdim=True)
        # 1 - cos x = 2 sin^2 (x / 2), which does not cancel for small x.
        rise = 2 / self.bend * torch.sin(0.5 * self.bend * r).square()
        return torch.sinc(self.bend * r / math.pi) * along + rise * normal

    def _radial(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Distance from the origin [..., 1], and direction from the origin [..., m]."""
        r = t.norm(dim=-1, keepdim=True)
        first = torch.zeros_like(t)
        first[..., 0] = 1
        return r, torch.where(r > 0, t / r.clamp_min(torch.finfo(t.dtype).tiny), first)

    def tangents(self, t: Tensor) -> Tensor:
        basis, normal = self._basis(t)
        r, e = self._radial(t)
        # Orient the tangent towards a growing first coordinate on both sides of the origin.
        side = torch.where(e[..., :1] < 0, -1.0, 1.0).to(t.dtype)
        r, e = side * r, side * e
        columns = [torch.cos(self.bend * r) * _combine(basis, e) + torch.sin(self.bend * r) * normal]
        if self.dim == 2:
            columns.append(_combine(basis, torch.stack([-e[..., 1], e[..., 0]], dim=-1)))
        return torch.stack(columns, dim=-1)

    def normal(self, t: Tensor) -> Tensor:
        basis, normal = self._basis(t)
        r, e = self._radial(t)
        return torch.cos(self.bend * r) * normal - torch.sin(self.bend * r) * _combine(basis, e)

    def curvature(self, t: Tensor) -> Tensor:
        return torch.full_like(t[..., 0], self.bend)

    def project(self, actions: Tensor) -> Tensor:
        basis, normal = self._basis(actions)
        t = torch.stack([(actions * column).sum(-1) for column in basis.T], dim=-1)
        r, e = self._radial(t)
        if self.bend > 0:
            height = (actions * normal).sum(-1, keepdim=True)
            r = torch.atan2(r, 1 / self.bend - height) / self.bend
        return r.clamp(max=self.half) * e


@dataclass(frozen=True)
class TwoArcs(Manifold):
    """An arc twice, ``separation`` apart along its normal. The second coordinate is the side, -1 or 1."""

    arc: Cap
    separation: float
    dim: int = 1
    ambient: int = 2
    coordinates: int = 2

    def offset(self, side: Tensor) -> Tensor:
        """Displacement [..., A] of a side [...] from the middle. Sides between -1 and 1 lie between the arcs."""
        normal = frame(self.ambient)[:, self.dim].to(side.dtype)
        return 0.5 * self.separation * side.unsqueeze(-1) * normal

    def point(self, t: Tensor) -> Tensor:
        return self.arc.point(t[..., :1]) + self.offset(t[..., 1])

    def tangents(self, t: Tensor) -> Tensor:
        return self.arc.tangents(t[..., :1])

    def normal(self, t: Tensor) -> Tensor:
        return self.arc.normal(t[..., :1])

    def curvature(self, t: Tensor) -> Tensor:
        return self.arc.curvature(t[..., :1])

    def project(self, actions: Tensor) -> Tensor:
        found, gaps = [], []
        for side in (-1.0, 1.0):
            sides = torch.full_like(actions[..., 0], side)
            t = self.arc.project(actions - self.offset(sides))
            found.append(torch.cat([t, sides.unsqueeze(-1)], dim=-1))
            gaps.append((actions - self.point(found[-1])).norm(dim=-1, keepdim=True))
        return torch.where(gaps[0] <= gaps[1], found[0], found[1])


@dataclass(frozen=True)
class Spiral(Manifold):
    """A logarithmic spiral from radius ``inner`` to ``outer``. The coordinate is the arc length from its middle."""

    growth: float
    inner: float
    outer: float
    dim: int = 1
    ambient: int = 2
    coordinates: int = 1

    @property
    def _stretch(self) -> float:
        """Arc length per unit of radius."""
        return math.sqrt(1 + self.growth**2) / self.growth

    @property
    def half(self) -> float:
        """Half of the spiral's length."""
        return 0.5 * (self.outer - self.inner) * self._stretch

    def _length(self, t: Tensor) -> Tensor:
        """Arc length from the pole, [...]."""
        return t[..., 0] + 0.5 * (self.outer + self.inner) * self._stretch

    def _polar(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Radius [..., 1], and the unit vectors [..., 2] along it and across it."""
        r = self._length(t) / self._stretch
        angle = torch.log(r / self.inner) / self.growth
        out = torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)
        return r.unsqueeze(-1), out, torch.stack([-out[..., 1], out[..., 0]], dim=-1)

    def point(self, t: Tensor) -> Tensor:
        r, out, _ = self._polar(t)
        return r * out

    def tangents(self, t: Tensor) -> Tensor:
        _, out, across = self._polar(t)
        return ((self.growth * out + across) / math.sqrt(1 + self.growth**2)).unsqueeze(-1)

    def normal(self, t: Tensor) -> Tensor:
        along = self.tangents(t)[..., 0]
        return torch.stack([-along[..., 1], along[..., 0]], dim=-1)

    def curvature(self, t: Tensor) -> Tensor:
        return 1 / (self.growth * self._length(t))

    def project(self, actions: Tensor) -> Tensor:
        grid = torch.linspace(-self.half, self.half, GRID, dtype=actions.dtype).unsqueeze(-1)
        points = self.point(grid)
        gaps = [(actions[..., i].unsqueeze(-1) - points[:, i]).square() for i in range(self.ambient)]
        t = grid[reduce(torch.add, gaps).argmin(-1)]
        for _ in range(NEWTON):
            away = self.point(t) - actions
            slope = (away * self.tangents(t)[..., 0]).sum(-1, keepdim=True)
            bend = 1 + self.curvature(t).unsqueeze(-1) * (away * self.normal(t)).sum(-1, keepdim=True)
            t = (t - slope / bend.clamp_min(0.1)).clamp(-self.half, self.half)
        return t


def _combine(basis: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum [..., A] of columns [A, m]. It is elementwise, so no row's rounding depends on other rows."""
    return cast(Tensor, sum(weights[..., i : i + 1] * basis[:, i] for i in range(basis.shape[1])))


def manifold(name: str, bend: float, half: float, separation: float) -> Manifold:
    """The manifold of a name in ``NAMES``. Lengths are in units of the action box.

    Args:
        name: of the manifold.
        bend: curvature of arcs and sphere (the spiral has its own).
        half: half-length of line, arc and arcs, and radius of the sphere's patch.
        separation: distance of the two arcs.
    """
    made = {
        "line": Cap(1, 0.0, half, 2),
        "arc": Cap(1, bend, half, 2),
        "sphere": Cap(2, bend, half, 3),
        "arcs": TwoArcs(Cap(1, bend, half, 2), separation),
        "spiral": Spiral(0.15, 0.3, 0.9),
    }
    return made[name]
