"""Numbers and distributions as statistical-model files write them: ``np.linspace(0, 1, 4)``, ``"90 170.2 500"``.

Only a fixed vocabulary is understood. Text is taken apart with :mod:`ast` and rebuilt from literals; nothing of it is
ever executed.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from surrogate.errors import ConfigError, unknown_name

Number = int | float

#: More numbers than any binning or anchor list needs; keeps a typing error from filling the memory.
MAX_SIZE = 1_000_000

_OPERATORS: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_RANGES = ("linspace", "logspace", "geomspace", "arange")
_ARRAYS = ("array", "asarray", "concatenate")


@dataclass(frozen=True)
class Distribution:
    """A distribution of scipy.stats by name, with its arguments as given."""

    name: str
    arguments: tuple[Number, ...]
    keywords: Mapping[str, Number]


def _parse(text: str, place: str) -> ast.expr:
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ConfigError(f"{place}: '{text}' is no expression: {error}") from error


def _call(node: ast.expr, modules: Sequence[str]) -> tuple[str, ast.Call] | None:
    """Return the function's name and the call for ``module.name(...)``, else None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        return (node.func.attr, node) if node.func.value.id in modules else None
    return None


def _number(node: ast.expr, place: str) -> Number:
    """Return a literal number, signed or joined by + - * /."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _number(node.operand, place)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _number(node.left, place), _number(node.right, place)
        if isinstance(node.op, ast.Div) and right == 0:
            raise ConfigError(f"{place}: division by zero in '{ast.unparse(node)}'")
        return _OPERATORS[type(node.op)](left, right)
    raise ConfigError(f"{place}: '{ast.unparse(node)}' is no number")


def _keywords(call: ast.Call, place: str) -> dict[str, Any]:
    """Return keyword arguments: numbers, or True and False."""
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ConfigError(f"{place}: '{ast.unparse(call)}' uses **; write the arguments out")
        value = keyword.value
        literal = isinstance(value, ast.Constant) and isinstance(value.value, bool)
        found[keyword.arg] = value.value if isinstance(value, ast.Constant) and literal else _number(value, place)
    return found


def _range(name: str, call: ast.Call, place: str) -> list[Number]:
    """Return what numpy.linspace, logspace, geomspace or arange gives."""
    arguments = [_number(a, place) for a in call.args]
    keywords = _keywords(call, place)
    text = ast.unparse(call)
    for key in keywords:
        allowed = ("start", "stop", "step") if name == "arange" else ("start", "stop", "num", "endpoint", "base")
        if key not in allowed:
            raise ConfigError(unknown_name("argument", key, allowed, f"{place}: {text}"))
    if name != "arange" and not _size_fits(arguments[2] if len(arguments) > 2 else keywords.get("num", 50)):
        raise ConfigError(f"{place}: '{text}' asks for a number of points that is not in 1 .. {MAX_SIZE}")
    if name == "arange" and not _arange_fits(arguments, keywords):
        raise ConfigError(f"{place}: '{text}' is empty or has more than {MAX_SIZE} points")
    try:
        values = getattr(np, name)(*arguments, **keywords)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{place}: '{text}' is malformed: {error}") from error
    return values.tolist()


def _size_fits(num: Any) -> bool:
    return isinstance(num, int) and 1 <= num <= MAX_SIZE


def _arange_fits(arguments: Sequence[Number], keywords: Mapping[str, Number]) -> bool:
    """Return whether arange gives between one and MAX_SIZE numbers."""
    given = dict(zip(("start", "stop", "step"), arguments, strict=False))
    if len(arguments) == 1 and "stop" not in keywords:
        given = {"stop": arguments[0]}
    given.update(keywords)
    step = given.get("step", 1)
    if "stop" not in given or step == 0:
        return False
    return 0 < (given["stop"] - given.get("start", 0)) / step <= MAX_SIZE


def _array(node: ast.expr, place: str) -> list[Number]:
    """Return a list of numbers from a literal list or one of the numpy functions that make one."""
    if isinstance(node, ast.List | ast.Tuple):
        return [_number(n, place) for n in node.elts]
    found = _call(node, ("np", "numpy"))
    if found is None:
        raise ConfigError(f"{place}: '{ast.unparse(node)}' is no list of numbers")
    name, call = found
    if name in _RANGES:
        return _range(name, call, place)
    if name not in _ARRAYS:
        raise ConfigError(unknown_name("numpy function", name, (*_RANGES, *_ARRAYS), place))
    if len(call.args) != 1 or call.keywords:
        raise ConfigError(f"{place}: '{ast.unparse(call)}' must have one argument")
    if name == "concatenate":
        parts = call.args[0]
        if not isinstance(parts, ast.List | ast.Tuple):
            raise ConfigError(f"{place}: '{ast.unparse(call)}' must be given a list")
        return [value for part in parts.elts for value in _array(part, place)]
    return _array(call.args[0], place)


def parse_numbers(value: Any, place: str) -> list[Number]:
    """Return the numbers that a configuration value stands for.

    Parameters
    ----------
    value
        A list of numbers, text such as ``"90 170.2 500"`` or ``"90, 170.2, 500"``, or a call of numpy's linspace,
        logspace, geomspace, arange, array or concatenate on literals. Integers stay integers.
    place
        Where it stands, for messages.

    Raises
    ------
    ConfigError
        If it is anything else.
    """
    if isinstance(value, list | tuple):
        bad = [v for v in value if isinstance(v, bool) or not isinstance(v, int | float)]
        if bad:
            raise ConfigError(f"{place}: {bad[0]!r} is no number")
        return list(value)
    if not isinstance(value, str):
        raise ConfigError(f"{place}: a list of numbers or text is needed, got {value!r}")
    if value.strip().startswith(("np.", "numpy.", "[", "(")):
        return _array(_parse(value, place), place)
    words = value.replace(",", " ").split()
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ConfigError(f"{place}: '{value}' is no list of numbers") from None


def parse_distribution(text: str, place: str) -> Distribution:
    """Return the distribution that text such as ``stats.uniform(loc=-2, scale=4)`` names.

    Raises
    ------
    ConfigError
        If the text is no call of scipy.stats with literal numbers.
    """
    found = _call(_parse(text, place), ("stats",))
    if found is None:
        raise ConfigError(f"{place}: '{text}' must be a number or a distribution such as stats.norm(loc=1, scale=0.1)")
    name, call = found
    return Distribution(name, tuple(_number(a, place) for a in call.args), _keywords(call, place))
