"""The polynomial in theta of one source at given events: what degrees it needs, its nodes and its coefficients.

ln f is evaluated with its slopes in theta, which makes 1 + K numbers of each node at three times the cost of one, and
fitted by least squares: one matrix for all events. Degrees differ between the natural coordinates: along each axis of
the region the Chebyshev coefficients of ln f tell what leaving out the higher ones would change in ln L.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.expanded_density import Chart, score
from inference.polynomial import PolynomialBasis, chebyshev_fitter
from inference.region import Region, ball_points
from inference.science_run import RunSource
from surrogate.errors import ConfigError

#: Nodes on each axis, and the highest degree that is told from them (a node gives a value and a slope).
AXIS_NODES, AXIS_DEGREE = 6, 10
#: Numbers per coefficient in least-squares fits, nodes on the axes aside.
EXCESS = 1.5
#: Of the quasi-random nodes within the ball.
NODE_SEED = 1


def chart_of(source: RunSource, region: Region) -> Chart:
    """Return how the nuisances of a source map into a region, of which only the parameters that drive it count.

    Raises
    ------
    ConfigError
        If the region lacks one of them.
    """
    drivers = source.drivers
    names = tuple(dict.fromkeys(d for d in drivers if isinstance(d, str)))
    for name in names:
        if name not in region.names:
            raise ConfigError(f"region: has no '{name}', which drives source '{source.name}'")
    position = tuple(names.index(d) if isinstance(d, str) else -1 for d in drivers)
    held = torch.tensor([0.0 if isinstance(d, str) else d for d in drivers], dtype=torch.float64)
    return Chart(region.of(names), tuple(position.index(s) for s in range(len(names))), held, position)


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
        Makes Chebyshev coefficients of the values, then the slopes per half-length, at the nodes.
    """

    nodes: Tensor
    half: float
    fitter: Tensor


def axis_nodes(region: Region, k: int) -> Axis:
    """Return the nodes on axis k of a region."""
    direction = region.axes[:, k]
    moving = direction != 0
    ends = torch.stack([region.lower - region.centre, region.upper - region.centre])[:, moving] / direction[moving]
    low = max(-1.0, float(ends.amin(dim=0).max()))
    high = min(1.0, float(ends.amax(dim=0).min()))
    s = torch.cos(math.pi * (torch.arange(AXIS_NODES, dtype=torch.float64) + 0.5) / AXIS_NODES)
    half = 0.5 * (high - low)
    nodes = torch.zeros(AXIS_NODES, len(region.names), dtype=torch.float64)
    nodes[:, k] = 0.5 * (high + low) + half * s
    return Axis(nodes, half, chebyshev_fitter(s, AXIS_DEGREE))


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
    """

    def __init__(self, source: RunSource, chart: Chart, x: Tensor) -> None:
        self.source, self.chart, self._x = source, chart, x
        self._axes = [axis_nodes(chart.region, k) for k in range(len(chart.columns))]
        self._nodes = x.new_zeros(0, len(self._axes), dtype=torch.float64)
        self._data: list[Tensor] = []
        self._n_ball = 0
        self._evaluate(torch.cat([axis.nodes for axis in self._axes]))
        self.basis = PolynomialBasis((0,) * len(self._axes))
        self.coefficients = x.new_zeros(len(x), 1)

    def _evaluate(self, t: Tensor) -> None:
        """Add nodes t (n, S) of the ball: ln f and its slopes in t, (1 + S, E) each."""
        theta = self.chart.theta(t)
        self._nodes = torch.cat([self._nodes, self.chart.to_ball(theta)])
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

    def fit(self, degrees: tuple[int, ...]) -> None:
        """Fit a polynomial of these degrees, evaluating the nodes that it needs beyond those there are."""
        basis = PolynomialBasis(degrees)
        wanted = math.ceil(EXCESS * len(basis) / (1 + basis.dim))
        if wanted > self._n_ball:
            self._evaluate(ball_points(wanted, basis.dim, NODE_SEED)[self._n_ball :])
            self._n_ball = wanted
        self.basis = basis
        self.coefficients = (basis.fitter(self._nodes) @ torch.cat(self._data)).T

    def predict(self, theta: Tensor) -> Tensor:
        """Return ln f (H, E) at theta (H, K)."""
        return self.basis.values(self.chart.to_ball(theta)) @ self.coefficients.T
