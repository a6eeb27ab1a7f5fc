"""A surrogate held against binned templates: expected events per bin at every anchor of the nuisance parameters.

With n_b the content of a template in bin b, m_b the surrogate's density integrated over the bin times its rate, and E
an exposure,

    pull_b = (m_b - n_b) sqrt(E / n_b),    chi2 = sum_b pull_b^2,

are in units of the Poisson fluctuations of a search of that exposure: chi2 is the non-centrality with which it would
tell the surrogate from the template, 1 being one standard deviation. Beside it stand two numbers that know of no
exposure, the deviation of the rate mu and that of the shape p = n/mu from q = m/mu',

    rate = mu'/mu - 1,    shape = sqrt(sum_b (q_b - p_b)^2 / p_b),

the latter the r.m.s. relative deviation of the bins weighted by their content. For a surrogate that was trained on a
part of the anchors, the same is computed for the multilinear morphing between those, which is what alea would do.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from surrogate.binned import BinnedSource
from surrogate.binning import Binning
from surrogate.checkpoint import load_checkpoint, read_record
from surrogate.ensemble import EnsembleSource
from surrogate.errors import ConfigError, DataError, RangeError
from surrogate.flow_source import FlowSource
from surrogate.template import TemplateSource
from training.template_events import anchor_points
from training.template_set import TemplateDraw, TemplateSet, read_template_set

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Summed change of the bins' contents at which the quadrature is fine enough."""

MOST_NODES = 4_000_000
"""Points of the quadrature over all bins at most."""


@dataclass(frozen=True)
class Deviation:
    """How an expectation deviates from a template: see the module; ``largest_pull`` has the sign of m - n."""

    rate: float
    shape: float
    chi2: float
    largest_pull: float


@dataclass(frozen=True)
class AnchorComparison:
    """One anchor.

    Attributes
    ----------
    theta
        Its place.
    trained
        Whether the surrogate was trained on this template; None where that is not known.
    template
        Expected events of the template per bin and unit exposure.
    expected
        Those of the surrogate.
    surrogate
        How the surrogate deviates.
    morphing
        How multilinear morphing between the templates of the training deviates; None where it was trained on all.
    """

    theta: dict[str, float]
    trained: bool | None
    template: tuple[float, ...]
    expected: tuple[float, ...]
    surrogate: Deviation
    morphing: Deviation | None


@dataclass(frozen=True)
class TemplateComparison:
    """A surrogate against a set of templates.

    Attributes
    ----------
    checkpoint, templates
        What was compared: a directory, and a pattern of file names.
    exposure
        In units of the templates (tonne-years).
    bins
        Number of bins on each axis, by name.
    anchors
        The anchors within the surrogate's ranges.
    outside
        How many anchors lie outside of them.
    """

    checkpoint: str
    templates: str
    exposure: float
    bins: dict[str, int]
    anchors: tuple[AnchorComparison, ...]
    outside: int

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data."""
        return asdict(self) | {"summary": self.summary()}

    def groups(self) -> dict[str, tuple[AnchorComparison, ...]]:
        """Return the anchors by what the surrogate knew of them."""
        words = {None: "all", True: "trained on", False: "left out"}
        grouped = {word: tuple(a for a in self.anchors if a.trained is known) for known, word in words.items()}
        return {word: anchors for word, anchors in grouped.items() if anchors}

    def summary(self) -> list[dict[str, Any]]:
        """Return one row for each group of anchors and each of surrogate and morphing: r.m.s. and worst deviations."""
        rows = []
        for word, anchors in self.groups().items():
            rows.append(_row(word, "surrogate", [a.surrogate for a in anchors]))
            morphed = [a.morphing for a in anchors if a.morphing is not None]
            if morphed and word == "left out":
                rows.append(_row(word, "morphing", morphed))
        return rows


def _row(group: str, of: str, deviations: Sequence[Deviation]) -> dict[str, Any]:
    rates, shapes, chi2 = (torch.tensor([getattr(d, k) for d in deviations]) for k in ("rate", "shape", "chi2"))
    return {
        "anchors": group,
        "of": of,
        "number": len(deviations),
        "rate_rms": float(rates.square().mean().sqrt()),
        "shape_rms": float(shapes.square().mean().sqrt()),
        "chi2_mean": float(chi2.mean()),
        "chi2_largest": float(chi2.max()),
        "largest_pull": max((d.largest_pull for d in deviations), key=abs),
    }


def deviation(expected: Tensor, template: Tensor, exposure: float) -> Deviation:
    """Compare expected events per bin (B,) with those of a template (B,), per unit exposure."""
    scale = torch.where(template > 0, template, expected)
    pulls = torch.where(scale > 0, (expected - template) * (exposure / scale.clamp(min=1e-300)).sqrt(), 0.0)
    mu, nu = template.sum(), expected.sum()
    p, q = template / mu, expected / nu
    terms = torch.where(p > 0, (q - p).square() / p.clamp(min=1e-300), q)
    worst = pulls[pulls.abs().argmax()]
    return Deviation(float(nu / mu - 1), float(terms.sum().sqrt()), float(pulls.square().sum()), float(worst))


def compare_with_templates(checkpoint: Path, templates: Path, exposure: float = 1.0) -> TemplateComparison:
    """Compare a surrogate with templates, bin by bin, at every anchor in its ranges.

    Parameters
    ----------
    checkpoint
        Directory of the surrogate.
    templates
        YAML file that describes a set of templates; or, for a surrogate that was trained on templates, the folder in
        which they lie.
    exposure
        Exposure of the search, in units of the templates, that pulls and chi2 refer to.

    Raises
    ------
    ConfigError
        If the templates' axes, parameters or extent are not those of the surrogate, or an anchor's rate is zero there.
    DataError
        If a file is missing or no template file.
    """
    if not exposure > 0:
        raise ConfigError(f"exposure = {exposure} must be > 0")
    description, kept = template_set_of(checkpoint, templates)
    source, truth = load_checkpoint(checkpoint), description.read()
    _check_nuisances(source, truth, checkpoint)
    theta = anchor_points(truth)
    inside = source.nuisances.contains(theta)
    if not bool(inside.any()):
        raise RangeError(f"{checkpoint}: no anchor of the templates lies in the ranges it was trained on")
    theta = theta[inside]
    binning = Binning(source.observables.names, truth.binning.edges)
    binned = BinnedSource(source, binning, quadrature_nodes(source, binning))
    contents = truth.counts.reshape(-1, binning.n_bins)[inside]
    expected = binned.pmf(theta) * source.expected_events(theta).unsqueeze(-1)
    morphing = _morphing(description, kept, theta)
    rows = []
    for k, point in enumerate(theta):
        if not float(contents[k].sum()) > 0:
            raise DataError(f"templates: the one at {point.tolist()} is empty; leave its anchor out of the description")
        rows.append(
            AnchorComparison(
                dict(zip(truth.anchors, point.tolist(), strict=True)),
                None if kept is None else _is_kept(point, kept, truth.anchors),
                tuple(contents[k].tolist()),
                tuple(expected[k].tolist()),
                deviation(expected[k], contents[k], exposure),
                None if morphing is None else deviation(morphing[k], contents[k], exposure),
            )
        )
    bins = dict(zip(binning.names, binning.shape, strict=True))
    files = str(Path(description.folder) / description.files)
    return TemplateComparison(str(checkpoint), files, exposure, bins, tuple(rows), int((~inside).sum()))


def template_set_of(checkpoint: Path, templates: Path) -> tuple[TemplateSet, Mapping[str, tuple[float, ...]] | None]:
    """Return the set to compare with, and the anchors that the surrogate was trained on, None if on no templates.

    Raises
    ------
    ConfigError
        If a folder is given for a surrogate that was not trained on templates.
    """
    block = read_record(checkpoint)["metadata"].get("config", {}).get("data", {}).get("templates")
    trained = None if block is None else TemplateDraw.model_validate(block)
    kept = None if trained is None else trained.anchors | trained.keep
    if not templates.is_dir():
        return read_template_set(templates), kept
    if trained is None:
        raise ConfigError(
            f"{checkpoint}: was not trained on templates, so that '{templates}' alone does not say which files are "
            "meant; give a YAML file with folder, files, histogram and nuisances"
        )
    return trained.model_copy(update={"folder": str(templates)}), kept


def quadrature_nodes(source: FlowSource | EnsembleSource, binning: Binning) -> int:
    """Return how many nodes per axis and bin integrate a density to TOLERANCE, judged at the nominal parameters.

    One is exact where the density is constant in the bins.
    """
    theta = source.nuisances.nominal()
    previous, nodes = BinnedSource(source, binning, 1).pmf(theta), 1
    for candidate in (2, 3, 6, 12, 24):
        if binning.n_bins * candidate**binning.dim > MOST_NODES:
            logger.warning("templates: integrals over bins may be off by more than %g; narrower bins help", TOLERANCE)
            break
        pmf = BinnedSource(source, binning, candidate).pmf(theta)
        change = float((pmf - previous).abs().sum())
        if change < TOLERANCE:
            break
        previous, nodes = pmf, candidate
    return nodes


def _check_nuisances(source: FlowSource | EnsembleSource, truth: TemplateSource, checkpoint: Path) -> None:
    if tuple(truth.anchors) != source.nuisances.names:
        raise ConfigError(
            f"templates: their parameters are {', '.join(truth.anchors) or 'none'}, those of {checkpoint} are "
            f"{', '.join(source.nuisances.names) or 'none'}; describe them in that order"
        )
    if truth.binning.names != source.observables.names:
        raise ConfigError(
            f"templates: their axes are {', '.join(truth.binning.names)}, the observables of {checkpoint} are "
            f"{', '.join(source.observables.names)}"
        )


def _morphing(description: TemplateSet, kept: Mapping[str, tuple[float, ...]] | None, theta: Tensor) -> Tensor | None:
    """Return the expectation (A, B) that alea would morph from the templates of the training, if those are a part."""
    if kept is None or all(set(kept[n]) == set(a) for n, a in description.anchors.items()):
        return None
    morphed = description.read(kept)
    return morphed.pmf(theta) * morphed.expected_events(theta).unsqueeze(-1)


def _is_kept(point: Tensor, kept: Mapping[str, tuple[float, ...]], names: Mapping[str, Sequence[float]]) -> bool:
    return all(value in kept[name] for name, value in zip(names, point.tolist(), strict=True))
