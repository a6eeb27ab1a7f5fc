"""Numbers in model files: the vocabulary gives what numpy gives, everything else is refused and nothing is executed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.configuration.expressions import parse_distribution, parse_numbers
from surrogate.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("np.linspace(0, 1, 4)", np.linspace(0, 1, 4)),
        ("np.linspace(0, 1, num=4, endpoint=False)", np.linspace(0, 1, num=4, endpoint=False)),
        ("numpy.geomspace(100, 1e5, 51)", np.geomspace(100, 1e5, 51)),
        ("np.logspace(0, 2, 3, base=2)", np.logspace(0, 2, 3, base=2)),
        ("np.arange(-2, 3)", np.arange(-2, 3)),
        ("np.arange(0, 102, 2)", np.arange(0, 102, 2)),
        ("np.arange(4)", np.arange(4)),
        ("np.arange(0, 1.0 + 0.25 / 2, 0.25)", np.arange(0, 1.125, 0.25)),
        ("np.array([1, 2.5, -3])", [1, 2.5, -3]),
        ("np.concatenate([np.linspace(0, 1, 3), [2, 4]])", [0, 0.5, 1, 2, 4]),
        ("[0, 1, 2]", [0, 1, 2]),
        ("90.0 170.161773681641\n 500", [90.0, 170.161773681641, 500]),
        ("90, 170.5, 5e2", [90, 170.5, 500]),
        ([-3, -2, 0.5], [-3, -2, 0.5]),
    ],
)
def test_what_is_understood(text: object, expected: object) -> None:
    np.testing.assert_array_equal(parse_numbers(text, "edges"), expected)


def test_integers_stay_integers() -> None:
    assert [type(v) for v in parse_numbers("np.arange(-2, 3)", "anchors")] == [int] * 5
    assert [type(v) for v in parse_numbers([-2, 1.0], "anchors")] == [int, float]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("np.linspce(0, 1, 4)", "unknown numpy function 'linspce'; did you mean 'linspace'"),
        ("np.random.rand(3)", "no list of numbers"),
        ("np.linspace(0, 1, 4).tolist()", "no list of numbers"),
        ("np.linspace(0, 1, nun=4)", "unknown argument 'nun'; did you mean 'num'"),
        ("np.linspace(0, 1, 10**9)", "is no number"),
        ("np.linspace(0, 1, 1000000000)", "asks for a number of points"),
        ("np.arange(0, 1, 1e-12)", "more than"),
        ("np.arange(0, 1, 0)", "is empty"),
        ("np.linspace(0, 1", "no expression"),
        ("np.linspace(__import__('os').getpid(), 1, 4)", "is no number"),
        ("np.linspace(0, 1 / 0, 4)", "division by zero"),
        ("np.linspace(0, 1, **{})", "write the arguments out"),
        ("np.geomspace(0, 1, 4)", "malformed"),
        ("zero one", "no list of numbers"),
        ([0, "one"], "'one' is no number"),
        ([0, True], "True is no number"),
        (3.0, "a list of numbers or text is needed"),
    ],
)
def test_what_is_refused(text: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_numbers(text, "model.yaml: analysis_space")
    assert str(error.value).startswith("model.yaml: analysis_space: ")


@given(st.text(alphabet="np.linsace(0,1)[]+-*/e_'\"x ", max_size=40))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_numbers_or_an_error(text: str) -> None:
    try:
        values = parse_numbers(text, "x")
    except ConfigError:
        return
    assert all(isinstance(v, int | float) for v in values)


def test_distributions() -> None:
    found = parse_distribution("stats.uniform(loc=-2, scale=4)", "x")
    assert (found.name, found.arguments, dict(found.keywords)) == ("uniform", (), {"loc": -2, "scale": 4})
    for text in ("uniform(0, 1)", "stats.uniform", "os.system('true')", "stats.norm(loc=os.getpid())"):
        with pytest.raises(ConfigError):
            parse_distribution(text, "x")
