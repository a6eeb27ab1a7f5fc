"""Events drawn from templates: exact rates, counts without Poisson noise, and a flow that learns them."""

from __future__ import annotations

from pathlib import Path

import pytest
import template_cases
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_cases import config

from surrogate.checkpoint import load_checkpoint
from surrogate.errors import ConfigError, DataError
from surrogate.template_io import write_templates
from training.event_set import EventSet
from training.template_events import (
    TemplateSupply,
    anchor_counts,
    anchor_points,
    draw_events,
    generated_rate,
    systematic_counts,
    write_template_events,
)
from training.template_set import TemplateDraw, TemplateSet, read_template_set
from training.template_validation import compare_with_templates
from training.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("templates")
    template_cases.write_set(folder, template_cases.surrogate())
    return folder


def draw(folder: Path, **changes: object) -> TemplateDraw:
    return TemplateDraw.model_validate(template_cases.description(folder) | {"events": 500} | changes)


@given(seed=st.integers(0, 10_000), n=st.integers(1, 5000))
def test_systematic_counts_are_within_one_of_their_expectation(seed: int, n: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pmf = torch.rand(3, 17, generator=generator, dtype=torch.float64) ** 4
    pmf /= pmf.sum(dim=-1, keepdim=True)
    counts = systematic_counts(pmf, n, torch.rand(3, generator=generator, dtype=torch.float64))
    assert bool((counts.sum(dim=-1) == n).all())
    assert float((counts - n * pmf).abs().max()) < 1 + 1e-9 * n


def test_systematic_counts_are_unbiased() -> None:
    pmf = torch.tensor([[0.05, 0.15, 0.3, 0.5]], dtype=torch.float64)
    v = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    counts = systematic_counts(pmf.expand(10_000, -1), 7, v)
    assert torch.allclose(counts.double().mean(dim=0), 7 * pmf[0], atol=1e-3)


def test_events_lie_in_their_bins(folder: Path) -> None:
    source = draw(folder).read()
    x, anchor = draw_events(source, 1000, torch.Generator().manual_seed(1))
    assert torch.equal(anchor.bincount(), torch.full((15,), 1000))
    pmf = source.pmf(anchor_points(source))
    found = torch.zeros(15, 6).index_put_((anchor, source.bin_index(x)), torch.ones(len(x)), accumulate=True)
    assert float((found - 1000 * pmf).abs().max()) < 1 + 1e-6
    inside = (x[:, 0] - 90.0)[(source.bin_index(x) < 2)] / 80.0  # the first bin of cs2
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.03)


def test_counts_give_the_rates(folder: Path) -> None:
    source = draw(folder).read()
    counts = anchor_counts(source, 1_000_000, generated_rate(source))
    mu = generated_rate(source) * counts.n_accepted.double() / counts.n_generated
    assert torch.allclose(mu, source.expected_events(anchor_points(source)), rtol=1e-6)


def test_an_event_file_holds_the_kept_anchors(folder: Path, tmp_path: Path) -> None:
    kept = draw(folder, keep=template_cases.KEPT, axes={"cs2": {"unit": "PE"}, "score": {"scale": "linear"}})
    assert write_template_events(kept, tmp_path / "events.h5") == 9 * 500
    with EventSet.open([tmp_path / "events.h5"]) as events:
        assert events.n_events == 4500
        assert events.observables.observables[0].unit == "PE"
        assert [o.scale for o in events.observables.observables] == ["bins", "linear"]
        assert set(events.blocks().theta[:, 0].tolist()) == {-2.0, 0.0, 2.0}
        supply = TemplateSupply(events, kept, seed=3)
        assert supply.held_out_events().size == 4500
        again = TemplateSupply(events, kept, seed=3).load(2, 0)
        assert torch.equal(supply.load(2, 0).u, again.u)
        assert not torch.equal(supply.load(1, 0).u, again.u)
        assert supply.load(0, 0).size == supply.group_size
        with pytest.raises(ConfigError, match="different observables"):
            TemplateSupply(events, draw(folder), seed=3)


def test_weighted_events_are_the_templates_themselves(folder: Path, tmp_path: Path) -> None:
    weighted = draw(folder, weighted=True)
    write_template_events(weighted, tmp_path / "events.h5")
    with EventSet.open([tmp_path / "events.h5"]) as events:
        supply = TemplateSupply(events, weighted, seed=3)
        loaded = supply.load(0, 0)
        assert loaded.size == supply.group_size == 15 * 6
        assert float(loaded.weight.mean()) == pytest.approx(1.0, abs=1e-6)
        source = weighted.read()
        bins = source.bin_index(weighted.space(source.binning).from_unit(loaded.u.double()))
        probability = source.pmf(loaded.theta.double())[torch.arange(loaded.size), bins]
        assert torch.allclose(loaded.weight.double(), 6 * probability, rtol=1e-6)


def test_empty_templates_are_never_drawn(tmp_path: Path) -> None:
    for shift, scale in ((0, 0.0), (1, 2.0)):
        counts = scale * torch.ones(template_cases.GRID.shape, dtype=torch.float64)
        write_templates(tmp_path / f"s_{shift}.h5", template_cases.GRID, {"template": counts})
    block = {"folder": str(tmp_path), "files": "s_{shift:.0f}.h5", "nuisances": [{"name": "shift", "anchors": [0, 1]}]}
    some = TemplateDraw.model_validate(block | {"events": 100})
    assert write_template_events(some, tmp_path / "events.h5") == 100
    with EventSet.open([tmp_path / "events.h5"]) as events:
        assert events.blocks().n_accepted.tolist() == [0, 100]
        assert TemplateSupply(events, some, 0).load(0, 0).theta.unique().tolist() == [1.0]
    write_templates(tmp_path / "s_1.h5", template_cases.GRID, {"template": torch.zeros(template_cases.GRID.shape)})
    with pytest.raises(DataError, match="all are empty"):
        write_template_events(some, tmp_path / "none.h5")


def test_a_flow_learns_templates_with_and_without_fresh_events(folder: Path, tmp_path: Path) -> None:
    for fresh in (True, False):
        block = draw(folder, events=4000).model_dump(mode="json")
        settings = config(
            tmp_path,
            name=f"fresh_{fresh}",
            checkpoint=str(tmp_path / f"checkpoint_{fresh}"),
            data={"events": [str(tmp_path / "events.h5")], "templates": block, "fresh": fresh},
            flow={"family": "histogram", "hidden": 16},
            optimiser={"steps": 300, "batch_size": 1024, "learning_rate": 0.02},
            stopping={"check_every": 100},
        )
        train(settings, shown=False)
        source = load_checkpoint(tmp_path / f"checkpoint_{fresh}")
        assert source.nuisances == template_cases.NUISANCES
        compared = compare_with_templates(tmp_path / f"checkpoint_{fresh}", folder)
        (row,) = compared.summary()
        assert row["number"] == 15
        assert row["rate_rms"] < (0.003 if fresh else 0.02)
        assert row["shape_rms"] < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": {"t_l": [0, 1]}}, "did you mean 't_ly'"),
        ({"keep": {"t_ly": [0.5, 1]}}, "0.5 is no anchor of 't_ly'"),
        ({"keep": {"t_ly": [1, 0]}}, "increasing"),
        ({"files": "wimp_{t_ly:.1f}.h5"}, "the nuisance 't_qy'"),
        ({"nuisances": [{"name": "t_ly", "anchors": [1, 0]}]}, "must increase"),
    ],
)
def test_bad_descriptions_are_explained(folder: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(folder, **change)


def test_bad_files_are_explained(folder: Path, tmp_path: Path) -> None:
    block = template_cases.description(folder)
    with pytest.raises(ConfigError, match="unknown axis 'cs3'"):
        TemplateSet.model_validate(block | {"axes": {"cs3": {}}}).read()
    with pytest.raises(ConfigError, match="unknown field 't_gy'"):
        TemplateSet.model_validate(block | {"files": "{t_ly}_{t_qy}_{t_gy}.h5"}).read()
    with pytest.raises(DataError, match="does not exist"):
        TemplateSet.model_validate(block | {"folder": str(tmp_path)}).read()
    (tmp_path / "set.yaml").write_text("folder: .\nfile: a.h5\n")
    with pytest.raises(ConfigError, match="did you mean 'files'"):
        read_template_set(tmp_path / "set.yaml")
