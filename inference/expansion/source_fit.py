"""The polynomial in theta of one source at given events: what degrees it needs, its nodes and its coefficients.

ln f is evaluated with its slopes in theta, which makes 1 + K numbers of each node at three times the cost of one, and
fitted by least squares: one matrix for all events. Degrees differ between the natural coordinates: along each axis of
the region the Chebyshev coefficients of ln f tell what leaving out the higher ones would change in ln L.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.expansion.chart import Chart
from inference.expansion.density import score
from inference.expansion.polynomial import PolynomialBasis, chebyshev_design, least_squares
from inference.expansion.region import ball_points, normal_points
from inference.expansion.theta_basis import ThetaBasis
from inference.science_run import RunSource

#: Nodes on each axis, and the highest degree that is told from them (a node gives a value and a slope).
AXIS_NODES, AXIS_DEGREE = 6, 10
#: Numbers per coefficient in least-squares fits, nodes on the axes aside.
EXCESS = 1.5
#: Of the quasi-random nodes within the ball.
NODE_SEED = 1
#: Width of the distribution of nodes that lie where estimates do, in standard deviations of these.
CENTRAL = 2.0


Nodes = Callable[[Chart, int], Tensor]


def even_nodes(chart: Chart, n: int) -> Tensor:
    """Return n points (n, S) that fill the ball of a chart."""
    return ball_points(n, chart.n_parameters, NODE_SEED)


def central_nodes(chart: Chart, n: int) -> Tensor:
    """Return n points (n, S) of the ball that lie like estimates with doubled errors: few at its edge."""
    return normal_points(n, chart.n_parameters, chart.region.radius / CENTRAL, NODE_SEED)


@dataclass(frozen=True)
class Axis:
    """Nodes on one axis of the ball.

    Attributes
    ----------
    nodes
        (AXIS_NODES, S), Chebyshev points of the part of the axis within the bounds.
    half
        Half the length of that part.
    fitter
        Makes Chebyshev coefficients of the values, then the slopes per half-length, at the nodes; kinks aside.
    """

    nodes: Tensor
    half: float
    fitter: Tensor


def axis_nodes(chart: Chart, k: int) -> Axis:
    """Return the nodes on axis k of the region of a chart."""
    region = chart.region
    direction = region.axes[:, k]
    moving = direction != 0
    ends = torch.stack([region.lower - region.centre, region.upper - region.centre])[:, moving] / direction[moving]
    low = max(-1.0, float(ends.amin(dim=0).max()))
    high = min(1.0, float(ends.amax(dim=0).min()))
    s = torch.cos(math.pi * (torch.arange(AXIS_NODES, dtype=torch.float64) + 0.5) / AXIS_NODES)
    half = 0.5 * (high - low)
    nodes = torch.zeros(AXIS_NODES, len(region.names), dtype=torch.float64)
    nodes[:, k] = 0.5 * (high + low) + half * s
    return Axis(nodes, half, _axis_fitter(chart, nodes, s, half * direction))


def _axis_fitter(chart: Chart, nodes: Tensor, s: Tensor, direction: Tensor) -> Tensor:
    """Return what makes Chebyshev coefficients of values and slopes at nodes on an axis.

    A kink that the axis crosses takes part with its coordinate, even and odd, at the expense of the highest degrees.
    """
    kinks = chart.kinks
    crossed = [] if kinks is None else [j for j, owner in enumerate(kinks.owners) if float(direction[owner]) != 0]
    degree = AXIS_DEGREE - 2 * len(crossed)
    design = chebyshev_design(s, degree)
    if kinks is not None and crossed:
        theta = chart.theta(nodes)
        u, slope = kinks.values(theta), kinks.derivatives(theta)[0] * direction[list(kinks.owners)]
        even = torch.cat([u, slope])[:, crossed]
        odd = torch.cat([u * s.unsqueeze(-1), u + slope * s.unsqueeze(-1)])[:, crossed]
        design = torch.cat([design, even, odd], dim=-1)
    fitter = design.new_zeros(AXIS_DEGREE + 1, len(design))
    fitter[: degree + 1] = torch.linalg.pinv(design)[: degree + 1]
    return fitter


class SourceFit:
    """ln f(x_i | theta) of one source at E events, as polynomials that can be made finer.

    Parameters
    ----------
    source
        The source in its run.
    chart
        The region in its nuisances.
    x
        Events (E, D).
    nodes
        Where ln f is evaluated, besides the axes.
    """

    def __init__(self, source: RunSource, chart: Chart, x: Tensor, nodes: Nodes = even_nodes) -> None:
        self.source, self.chart, self._x, self._choose = source, chart, x, nodes
        self._axes = [axis_nodes(chart, k) for k in range(chart.n_parameters)]
        self._nodes = chart.held.new_zeros(0, len(chart.held))
        self._data: list[Tensor] = []
        self._n_ball = 0
        self._evaluate(torch.cat([axis.nodes for axis in self._axes]))
        self.basis = ThetaBasis(chart, PolynomialBasis((0,) * (chart.n_parameters + chart.n_kinks), chart.n_kinks))
        self.coefficients = x.new_zeros(len(x), 1)

    def _evaluate(self, t: Tensor) -> None:
        """Add nodes t (n, S) of the ball: ln f and its slopes in t, (1 + S, E) each."""
        theta = self.chart.theta(t)
        self._nodes = torch.cat([self._nodes, theta])
        for node in theta:
            log_f, gradient = score(self.source.source, self._x, node.expand(len(self._x), -1))
            self._data.append(torch.cat([log_f.unsqueeze(0), self.chart.pull_back(gradient).T]))

    @property
    def n_nodes(self) -> int:
        """Number of nodes evaluated so far."""
        return len(self._data)

    def omissions(self, weight: Tensor, share: Tensor) -> Tensor:
        """Return the change of ln L (S, 1 + AXIS_DEGREE) when the degrees above each are left out along each axis.

        Sums over events are taken as they are and, as events may conspire elsewhere, in quadrature as well.

        Parameters
        ----------
        weight, share
            (E,) of each event in ln L, and the part of its intensity that is due to the source.
        """
        rows = []
        for k, axis in enumerate(self._axes):
            data = torch.stack(self._data[k * AXIS_NODES : (k + 1) * AXIS_NODES])
            series = axis.fitter @ torch.cat([data[:, 0], axis.half * data[:, 1 + k]])
            coherent, scattered = series @ (weight * share), series.square() @ (weight * share.square())
            size = (coherent.square() + scattered).sqrt()
            rows.append(size.flip(0).cumsum(0).flip(0) - size)
        return torch.stack(rows)

    @property
    def degrees(self) -> tuple[int, ...]:
        """Degrees along the natural coordinates."""
        return self.basis.polynomials.degrees[: self.chart.n_parameters]

    def basis_of(self, degrees: tuple[int, ...]) -> ThetaBasis:
        """Return the polynomials of these degrees; a kink counts like the best resolved coordinate."""
        linear = self.chart.n_kinks
        return ThetaBasis(self.chart, PolynomialBasis((*degrees, *(max(degrees),) * linear), linear))

    def fit(self, degrees: tuple[int, ...]) -> None:
        """Fit a polynomial of these degrees, evaluating the nodes that it needs beyond those there are."""
        basis, dim = self.basis_of(degrees), self.chart.n_parameters
        wanted = math.ceil(EXCESS * len(basis) / (1 + dim))
        if wanted > self._n_ball:
            self._evaluate(self._choose(self.chart, wanted)[self._n_ball :])
            self._n_ball = wanted
        self.basis = basis
        at = basis.inner(self._nodes)
        fitter = least_squares(at.value, self.chart.region.axes.T @ at.slope)
        self.coefficients = (fitter @ torch.cat(self._data)).T

    def predict(self, theta: Tensor) -> Tensor:
        """Return ln f (H, E) at theta (H, K)."""
        return self.basis.values(theta) @ self.coefficients.T
