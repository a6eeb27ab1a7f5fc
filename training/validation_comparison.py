"""Comparisons of fresh events with events drawn from the surrogate: a classifier, and binned projections."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor, nn

from surrogate.nuisance import NuisanceSpace
from training.event_set import UnitEvents
from training.validation_target import UnitDensity


def surrogate_events(flow: UnitDensity, events: UnitEvents, copies: int, generator: torch.Generator) -> UnitEvents:
    """Draw ``copies`` events from the surrogate at the theta and with the weight of each event."""
    theta = events.theta.repeat(copies, 1)
    x = flow.sample(len(theta), theta.to(flow.dtype), generator)
    u, _ = flow.config.observables.to_unit(x.double())
    return UnitEvents(u.float(), theta, events.weight.repeat(copies))


@dataclass(frozen=True)
class ClassifierTest:
    """Outcome of a classifier two-sample test.

    Attributes
    ----------
    auc, error
        Area under the curve on events the classifier has not seen, and its standard error without any difference.
    slices
        Name, area and error per slice of the observables and of theta.
    """

    auc: float
    error: float
    slices: tuple[tuple[str, float, float], ...]


def classifier_test(
    flow: UnitDensity, fresh: UnitEvents, drawn: UnitEvents, seed: int, epochs: int = 8
) -> ClassifierTest:
    """Train a classifier to tell fresh events from drawn ones at the same thetas, and measure how well it does.

    A network sees the unit coordinates and the standardised theta of one half of both samples; the area under the
    curve is that of the other half (Lopez-Paz and Oquab, arXiv:1610.06545). 0.5 is chance. The statistic ignores
    weights.

    Parameters
    ----------
    flow
        Gives the names and ranges of the slices.
    fresh, drawn
        Samples of equal size, in which event i of both has the same theta.
    seed
        Of the initial weights and of the shuffles.
    epochs
        Passes over the training half.
    """
    nuisances = flow.config.nuisances
    features = torch.cat([_features(nuisances, fresh), _features(nuisances, drawn)])
    label = torch.cat([torch.ones(fresh.size), torch.zeros(drawn.size)])
    # both events of one theta go to the same half
    half = torch.rand(fresh.size, generator=torch.Generator().manual_seed(seed)) < 0.5
    train = torch.cat([half, half])
    network = _trained_classifier(features[train], label[train], seed, epochs)
    with torch.no_grad():
        rest, truth = features[~train], label[~train]
        logit = torch.cat([network(part).squeeze(-1) for part in rest.split(65_536)])
    auc, error = area_under_curve(logit[truth > 0], logit[truth == 0])
    slices = []
    for name, mask in _slices(flow, rest):
        chosen, other = logit[mask & (truth > 0)], logit[mask & (truth == 0)]
        if min(len(chosen), len(other)) >= 100:
            slices.append((name, *area_under_curve(chosen, other)))
    return ClassifierTest(auc, error, tuple(slices))


def area_under_curve(positive: Tensor, negative: Tensor) -> tuple[float, float]:
    """Return the probability that a positive exceeds a negative, ties counting half, and its error for equal samples.

    The Mann-Whitney statistic; without a difference its variance is (n + m + 1)/(12 n m).
    """
    n, m = len(positive), len(negative)
    ranks = stats.rankdata(torch.cat([positive, negative]).double().numpy())
    area = (ranks[:n].sum() - n * (n + 1) / 2) / (n * m)
    return float(area), ((n + m + 1) / (12 * n * m)) ** 0.5


def _features(nuisances: NuisanceSpace, events: UnitEvents) -> Tensor:
    """Return centred coordinates and standardised theta (n, D + K), float32."""
    return torch.cat([2 * events.u - 1, nuisances.standardise(events.theta.double()).float()], dim=-1)


def _trained_classifier(features: Tensor, label: Tensor, seed: int, epochs: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = 64
        network = nn.Sequential(
            nn.Linear(features.shape[-1], width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )
    steps = max(epochs * len(label) // 1024, 1)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    loss_function = nn.BCEWithLogitsLoss()
    for _ in range(steps):
        rows = torch.randint(len(label), (1024,), generator=generator)
        loss = loss_function(network(features[rows]).squeeze(-1), label[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network


def _slices(flow: UnitDensity, features: Tensor) -> list[tuple[str, Tensor]]:
    """Return the lowest and the highest tenth in each observable and each parameter, and corners of the parameters."""
    names = (*flow.config.observables.names, *flow.config.nuisances.names)
    slices = []
    for name, column in zip(names, features.T, strict=True):
        low, high = column.quantile(torch.tensor([0.1, 0.9])) if len(column) < 2**24 else (-0.8, 0.8)
        slices += [(f"{name} low", column <= low), (f"{name} high", column >= high)]
    d = flow.config.observables.dim
    for first, second in itertools.pairwise(range(d, len(names))):
        corner = (features[:, first].abs() > 0.6) & (features[:, second].abs() > 0.6)
        slices.append((f"{names[first]}, {names[second]} corners", corner))
    return slices


@dataclass(frozen=True)
class Projection:
    """Chi-square of fresh against drawn events in a binned two-dimensional projection, for one cell of theta.

    Attributes
    ----------
    cell, names
        Cell of theta and the two observables.
    chi2, n_dof, p_value
        Of the hypothesis that both samples have one density.
    deviation2, error2
        Mean square relative deviation of the binned densities beyond noise, (chi2 - n_dof)/n_eff, and its standard
        error for equal densities, sqrt(2 n_dof)/n_eff, with 1/n_eff = 1/n_fresh + 1/n_drawn.
    """

    cell: int
    names: tuple[str, str]
    chi2: float
    n_dof: int
    p_value: float
    deviation2: float
    error2: float


def projection_tests(
    flow: UnitDensity, fresh: UnitEvents, drawn: UnitEvents, cells: tuple[Tensor, Tensor], bins: int = 16
) -> list[Projection]:
    """Return the chi-square of all two-dimensional projections (of the margin if D = 1) in all cells of theta.

    Bins have equal contents in the margins of the drawn sample; the bins of the plane with fewer than 20 events of both
    samples together are merged into one. Weights are ignored.

    Parameters
    ----------
    flow
        Gives the names.
    fresh, drawn
        The two samples.
    cells
        Cell number of each event, of the fresh and of the drawn sample.
    bins
        Bins per observable.
    """
    names = flow.config.observables.names
    planes = list(itertools.combinations(range(len(names)), 2)) or [(0, 0)]
    results = []
    for cell in range(int(cells[0].max()) + 1):
        a, b = fresh.u[cells[0] == cell], drawn.u[cells[1] == cell]
        if min(len(a), len(b)) < 20 * bins:
            continue
        share = torch.linspace(0, 1, bins + 1)[1:-1]
        edges = [b[:, d].contiguous().quantile(share) for d in range(len(names))]
        index = [[torch.bucketize(s[:, d].contiguous(), edges[d]) for d in range(len(names))] for s in (a, b)]
        for first, second in planes:
            counts = [torch.bincount(bins * i[first] + i[second], minlength=bins * bins).double() for i in index]
            results.append(_two_sample_chi2(cell, (names[first], names[second]), counts[0], counts[1]))
    return results


def _two_sample_chi2(cell: int, names: tuple[str, str], a: Tensor, b: Tensor) -> Projection:
    """Return the two-sample chi-square of counts a and b, (m,)."""
    n, m = float(a.sum()), float(b.sum())
    few = a + b < 20
    if bool(few.any()):
        a, b = (torch.cat([c[~few], c[few].sum().reshape(1)]) for c in (a, b))
        occupied = a + b > 0
        a, b = a[occupied], b[occupied]
    chi2 = float(((a * (m / n) ** 0.5 - b * (n / m) ** 0.5).square() / (a + b)).sum())
    n_dof = max(len(a) - 1, 1)
    effective = n * m / (n + m)
    return Projection(
        cell,
        names,
        chi2,
        n_dof,
        float(stats.chi2.sf(chi2, n_dof)),
        (chi2 - n_dof) / effective,
        (2 * n_dof) ** 0.5 / effective,
    )
