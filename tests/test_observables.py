"""The map of the region of interest onto the unit cube: exact edges, round trips, Jacobians, bins."""

from __future__ import annotations

import pytest
import torch

from surrogate.errors import ConfigError
from surrogate.observables import Observable, ObservableSpace

EDGES = (90.0, 170.161773681641, 249.889739990234, 500.0)
SPACE = ObservableSpace(
    (
        Observable("cs1", "PE", 2.0, 70.0, "log", offset=1.5),
        Observable("cs2", "PE", 90.0, 500.0, "bins", edges=EDGES),
        Observable("r", "cm", 0.0, 48.0, "square"),
        Observable("score", "", 0.0, 1.0),
    )
)


def test_the_map_is_a_bijection_with_its_jacobian():
    low, high = SPACE.bounds(torch.zeros((), dtype=torch.float64))
    unit = torch.rand(2000, SPACE.dim, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = (low + (high - low) * unit).requires_grad_(True)
    u, log_det = SPACE.to_unit(x)
    (slopes,) = torch.autograd.grad(u.sum(), x)  # diagonal
    assert torch.allclose(slopes.log().sum(dim=-1), log_det, atol=1e-10)
    assert torch.allclose(SPACE.from_unit(u), x, rtol=1e-12)


def test_bins_become_equally_wide_and_edges_stay_edges():
    observable = SPACE.observables[1]
    for dtype in (torch.float32, torch.float64):
        edges = torch.tensor(EDGES, dtype=dtype)
        u, _ = observable.to_unit(edges)
        assert torch.allclose(u, torch.arange(4, dtype=dtype) / 3)
        assert torch.equal(observable.from_unit(u), edges)
    centres = 0.5 * (edges[1:] + edges[:-1])
    u, log_slope = observable.to_unit(centres)
    assert torch.allclose(u, (torch.arange(3) + 0.5).double() / 3)
    assert torch.allclose(log_slope.exp(), 1 / (3 * edges.diff()))


def test_plain_data_say_nothing_of_edges_where_there_are_none():
    assert [("edges" in o) for o in SPACE.to_dict()] == [False, True, False, False]
    assert ObservableSpace.from_dict(SPACE.to_dict()) == SPACE


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scale": "bins"}, "give edges"),
        ({"edges": EDGES}, "give edges"),
        ({"scale": "bins", "edges": (90.0, 80.0, 500.0)}, "must increase"),
        ({"scale": "bins", "edges": (90.0, 100.0)}, "must run from low"),
        ({"scale": "bin"}, "bins"),
    ],
)
def test_bad_scales_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Observable("cs2", "PE", 90.0, 500.0, **values)
