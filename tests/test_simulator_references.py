"""The simulator as a whole against its references: published templates, and NEST where nestpy is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from surrogate.errors import ConfigError, DataError
from training import nest_reference
from training.nest_reference import NestReference
from training.simulator_config import read_detector
from training.simulator_validation import (
    FIELDS,
    NEST_CHECKS,
    Comparison,
    SimulatorReport,
    compare_release,
    validate_simulator,
)

needs_nest = pytest.mark.skipif(nest_reference.nestpy is None, reason="needs nestpy")


@pytest.mark.shared
def test_b8_rates_against_the_release(shared: Path) -> None:
    """mu(t_ly, t_qy)/mu(0, 0) of solar 8B: XENONnT's templates (arXiv:2409.17868, SR0 and SR1) within 4 %."""
    release = shared / "data" / "xenonnt_light_wimp"
    report = validate_simulator(read_detector("lz_like"), read_detector("xenonnt_light_like"), release, nest=False)
    assert len(report.comparisons) == 20
    assert report.passed, [c for c in report.comparisons if not c.passed]
    # Most are far better: the mean deviation is below 1.5 %.
    assert sum(abs(c.difference) for c in report.comparisons) / 20 < 0.015


def test_missing_release(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="template"):
        compare_release(tmp_path, read_detector("xenonnt_light_like"), n=1000)


def test_nothing_to_compare_with() -> None:
    with pytest.raises(ConfigError, match="nothing to compare"):
        validate_simulator(read_detector("lz_like"), nest=False)


def test_verdicts() -> None:
    assert Comparison("x", 1.004, 1.0, 0.0, 0.005).passed
    assert not Comparison("x", 1.006, 1.0, 0.0, 0.005).passed
    assert Comparison("x", 1.006, 1.0, 0.001, 0.005).passed
    assert Comparison("x", 0.31, 0.30, 0.0, 0.0101, absolute=True).passed
    report = SimulatorReport((Comparison("x", 2.0, 1.0, 0.0, 0.1),))
    assert not report.passed
    assert report.to_dict()["comparisons"][0]["difference"] == pytest.approx(1.0)


@pytest.mark.skipif(nest_reference.nestpy is not None, reason="nestpy is installed")
def test_nest_is_optional() -> None:
    with pytest.raises(ConfigError, match="pip install nestpy"):
        NestReference(23.0)


@pytest.mark.slow
@needs_nest
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("check", NEST_CHECKS)
def test_against_nest(field: float, check: str) -> None:
    """Means 0.5 %; quanta 1 %, 2 %, 0.03; bands 1.5 %; S1 efficiency 0.01: nestpy 2.1.3 (arXiv:2211.10726)."""
    found = NEST_CHECKS[check](field, read_detector("lz_like"))
    assert all(c.passed for c in found), [c for c in found if not c.passed]
