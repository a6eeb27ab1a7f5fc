"""The root command: lazy verbs, exit codes, one-line errors."""

from __future__ import annotations

import errno
import importlib.metadata
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
import typer

import xeflow
from surrogate.errors import ConfigError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., int]], None]:
    """Install a function as the only verb, ``work``."""

    def install(function: Callable[..., int]) -> None:
        module = ModuleType("pretend_cli")
        module.work = function
        monkeypatch.setitem(sys.modules, "pretend_cli", module)
        monkeypatch.setattr(xeflow, "VERBS", {"work": xeflow.Verb("pretend_cli:work", "Work.", "Panel")})

    return install


@pytest.mark.parametrize("code", [0, 1])
def test_return_value_is_the_exit_code(verb, code):
    verb(lambda: code)
    assert xeflow.main(["work"]) == code


def test_options_reach_the_verb(verb, capsys):
    def work(path: Path, factor: Annotated[float, typer.Option(help="A factor.")] = 1.0) -> int:
        """Work.

        More of it.
        """
        typer.echo(f"{path} {factor}")
        return 0

    verb(work)
    assert xeflow.main(["work", "a.yaml", "--factor", "2.5"]) == 0
    assert capsys.readouterr().out == "a.yaml 2.5\n"
    assert xeflow.main(["work", "--help"]) == 0
    out = capsys.readouterr().out
    assert "More of it." in out
    assert "A factor." in out


def test_bad_input_is_one_line_and_exit_code_2(verb, capsys):
    def work() -> int:
        raise ConfigError("model.yaml: unknown key 'soruces'; did you mean 'sources'?")

    verb(work)
    assert xeflow.main(["work"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "error: model.yaml: unknown key 'soruces'; did you mean 'sources'?\n"
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [["--debug", "work"], ["work", "--debug"]])
def test_debug_shows_the_traceback_before_or_after_the_verb(verb, capsys, arguments):
    def work() -> int:
        raise ConfigError("broken")

    verb(work)
    assert xeflow.main(arguments) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("error: broken\n")


def test_words_after_the_double_dash_are_left_alone(verb, capsys):
    def work(word: str) -> int:
        typer.echo(word)
        return 0

    verb(work)
    assert xeflow.main(["work", "--", "--debug"]) == 0
    assert capsys.readouterr().out == "--debug\n"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/events.h5"),
            "/data/events.h5: no space left on device",
        ),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "m.yaml"), "m.yaml: no such file or directory"),
        (
            PermissionError(errno.EACCES, os.strerror(errno.EACCES), "out"),
            "out: permission denied; check the permissions",
        ),
        (OSError("Unable to open file (bad object header)"), "unable to open file (bad object header)"),
    ],
    ids=["disk full", "missing", "forbidden", "library"],
)
def test_operating_system_errors_are_explained(verb, capsys, error, message):
    def work() -> int:
        raise error

    verb(work)
    assert xeflow.main(["work"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {message}")
    assert captured.err.count("\n") == 1


def test_a_defect_is_not_dressed_up_as_bad_input(verb):
    def work() -> int:
        return 1 // 0

    verb(work)
    with pytest.raises(ZeroDivisionError):
        xeflow.main(["work"])


def test_interrupt(verb, capsys):
    def work() -> int:
        raise KeyboardInterrupt

    verb(work)
    assert xeflow.main(["work"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_usage_errors_exit_with_2(verb, capsys):
    def work(path: Path) -> int:
        return 0

    verb(work)
    for arguments in (["work"], ["work", "a", "b"], ["work", "a", "--what"], ["wokr"], ["--what"]):
        assert xeflow.main(arguments) == 2, arguments
    assert "Did you mean 'work'?" in capsys.readouterr().err


def test_version(capsys):
    assert xeflow.main(["--version"]) == 0
    assert capsys.readouterr().out == f"xeflow {importlib.metadata.version('xeflow')}\n"


def test_help_lists_every_verb(capsys):
    assert xeflow.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name, entry in xeflow.VERBS.items():
        assert name in out
        assert entry.panel in out


@pytest.mark.parametrize("name", list(xeflow.VERBS))
def test_table_agrees_with_the_verb(name):
    function = xeflow.load(xeflow.VERBS[name].place)
    assert (inspect.getdoc(function) or "").splitlines()[0] == xeflow.VERBS[name].summary
    assert inspect.signature(function).return_annotation in (int, "int")


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], ["torch", "numpy", "surrogate", "matplotlib", "h5py"]),
        (["limit", "--help"], ["lightning", "pytorch_lightning", "training"]),
        (["draw", "--help"], ["lightning", "pytorch_lightning", "inference"]),
    ],
    ids=lambda value: value[0],
)
def test_a_verb_imports_only_what_it_needs(arguments, heavy):
    program = (
        f"import sys, xeflow; code = xeflow.main({arguments!r}); "
        f"print(*(m for m in {heavy!r} if m in sys.modules), file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""


def test_one_thread_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    assert xeflow.main(["--version"]) == 0
    assert (os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"]) == ("3", "1")
