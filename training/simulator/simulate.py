"""Simulating in memory: events at one theta or many, at fixed truth, at given positions, or for an exposure.

    >>> columns = simulate(source, 100_000, nominal_theta(detector), seed=1, fix_truth={"energy": 5.0, "z": -50.0})

Events are generated in batches of 65536 whose random numbers are counted by (seed, source, batch).
"""

from __future__ import annotations

import torch
from torch import Tensor

from surrogate.errors import RangeError
from training.simulator.seeds import stream
from training.simulator.sources import EventSource, RecoilSource
from training.simulator.theta import check_theta, nominal_theta, split_theta
from training.simulator.tpc import Columns, FixedTruth, check_truth, truth_of

BATCH = 65536


def simulate(
    source: EventSource,
    n: int,
    theta: Tensor,
    seed: int,
    fix_truth: FixedTruth | None = None,
    device: torch.device | str = "cpu",
) -> Columns:
    """Generate n events and return the selected ones.

    Parameters
    ----------
    source
        The event source.
    n
        Generated events.
    theta
        (4,) for all events, or (n, 4): t_ly, t_qy [sigma], elife [us], g1 [phd/photon].
    seed
        Seed.
    fix_truth
        Quantities that are not drawn: ``energy`` [keV], ``photons``, ``electrons``, true ``r``, ``z`` [cm]; each a
        number or (n,).
    device
        ``cpu`` or ``cuda``; their random streams differ.

    Returns
    -------
    dict
        Columns of the selected events: reconstructed (cs1, cs2, r, z, drift_time, s1, s2), true (energy, photons,
        electrons, true_r, true_z, hits, extracted) where the source has them, and ``index`` among the n generated
        ones.

    Raises
    ------
    RangeError
        If theta or a fixed quantity has a wrong shape or is not physical.
    """
    if n < 1:
        raise RangeError(f"n = {n} must be at least 1")
    truth = {} if fix_truth is None else fix_truth
    check_theta(theta, n, source.detector)
    check_truth(truth, n, source.detector)
    pieces = []
    for k, start in enumerate(range(0, n, BATCH)):
        rows = slice(start, min(start + BATCH, n))
        here = split_theta(theta[rows] if theta.ndim == 2 else theta, torch.zeros(0, device=device))
        piece = source.generate(rows.stop - start, here, stream(seed, source.name, k, device), truth_of(truth, rows))
        piece["index"] = piece["index"].long() + start
        pieces.append(piece)
    return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}


def resimulate(source: EventSource, r: Tensor, z: Tensor, theta: Tensor, seed: int, repeat: int = 1) -> Columns:
    """Simulate ``repeat`` events at the true position of each given event.

    Comparing an event with its own re-simulation takes the position dependence out of the comparison.

    Parameters
    ----------
    r, z
        Positions (m,), cm.
    theta
        (4,), or (m, 4), one per given event.

    Returns
    -------
    dict
        As :func:`simulate`; ``index`` is the given event, 0 .. m - 1.

    Raises
    ------
    RangeError
        As :func:`simulate`, and if r and z differ in shape or repeat < 1.
    """
    if r.ndim != 1 or r.shape != z.shape or repeat < 1:
        raise RangeError(f"positions {tuple(r.shape)}, {tuple(z.shape)} must be (m,) each and repeat = {repeat} >= 1")
    check_theta(theta, len(r), source.detector)
    per_event = theta.repeat_interleave(repeat, dim=0) if theta.ndim == 2 else theta
    positions = {"r": r.repeat_interleave(repeat), "z": z.repeat_interleave(repeat)}
    columns = simulate(source, len(r) * repeat, per_event, seed, positions)
    columns["index"] = columns["index"].div(repeat, rounding_mode="floor")
    return columns


def simulate_exposure(source: EventSource, theta: Tensor, exposure: float, seed: int) -> Columns:
    """Simulate what a source leaves in an exposure, tonne-years: a Poisson number of generated events, then the cuts.

    Parameters
    ----------
    theta
        (4,).
    exposure
        Fiducial exposure, tonne-years.

    Returns
    -------
    dict
        As :func:`simulate`.

    Raises
    ------
    RangeError
        As :func:`simulate`, and unless exposure >= 0.
    """
    if not exposure >= 0 or theta.ndim != 1:
        raise RangeError(f"exposure = {exposure} must be >= 0 tonne-years and theta {tuple(theta.shape)} must be (4,)")
    mean = torch.tensor(source.generated_rate * exposure, dtype=torch.float64)
    n = int(torch.poisson(mean, generator=stream(seed, f"{source.name}:count", 0)))
    columns = simulate(source, max(n, 1), theta, seed)
    return columns if n > 0 else {name: column[:0] for name, column in columns.items()}


def acceptance(source: EventSource, theta: Tensor, n: int, seed: int) -> tuple[float, float]:
    """Return the fraction of generated events that is kept at theta (4,), and its binomial standard error."""
    kept = len(simulate(source, n, theta, seed)["index"])
    fraction = kept / n
    return fraction, (fraction * (1 - fraction) / n) ** 0.5


def efficiency(source: RecoilSource, energies: Tensor, theta: Tensor, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return kept events per recoil in the fiducial volume at each energy (m,), keV, and the standard error.

    Parameters
    ----------
    energies
        Recoil energies (m,), keV.
    theta
        (4,).
    n
        Generated recoils per energy, in the padded volume.
    """
    truth = {"energy": energies.float().repeat_interleave(n)}
    index = simulate(source, len(energies) * n, theta, seed, truth)["index"]
    kept = torch.bincount(index.div(n, rounding_mode="floor"), minlength=len(energies)).double() / n
    volume = source.detector.volume_ratio()
    return volume * kept, volume * (kept * (1 - kept) / n).sqrt()


ENOUGH = 10_000
"""Accepted events with which an acceptance is known to 1 %."""


def with_accepted_rate(source: EventSource, rate: float, seed: int = 0, limit: int = 1 << 21) -> EventSource:
    """Return the source scaled so that ``rate`` events per tonne-year pass the cuts at the nominal theta.

    The acceptance comes from as many events as give 10000 accepted ones, at most ``limit``, at a fixed seed.

    Raises
    ------
    RangeError
        If none of them is accepted.
    """
    theta, n = nominal_theta(source.detector), BATCH
    kept = len(simulate(source, n, theta, seed)["index"])
    while kept < ENOUGH and n < limit:
        n = min(limit, 2 * n if kept == 0 else max(2 * n, n * ENOUGH // kept))
        kept = len(simulate(source, n, theta, seed)["index"])
    if kept == 0:
        raise RangeError(
            f"source '{source.name}': none of {n} generated events passes the cuts of '{source.detector.name}', so its "
            "rate cannot be set from the accepted one; give the generated rate"
        )
    return source.scaled(rate * n / (source.generated_rate * kept))
