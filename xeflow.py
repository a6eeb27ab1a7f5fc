"""The ``xeflow`` command: one verb per task, loaded only when it is called.

Importing torch or Lightning takes seconds, so the root imports neither: it knows each verb by name, place and one line
of help, and imports its module when the verb is invoked or its own help is asked for. Here, and only here, logging is
set up and errors become messages and exit codes:

    0    success
    1    the job ran and its check failed: a fit that did not converge, a surrogate that failed its validation
    2    bad input or a file that cannot be read or written; one line on standard error, no traceback without --debug
    130  interrupted
"""

from __future__ import annotations

import errno
import importlib
import importlib.metadata
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from typer.core import TyperGroup
from typer.main import get_command

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
PACKAGES = ("surrogate", "training", "inference")


@dataclass(frozen=True)
class Verb:
    """Where a verb lives and what the root help says of it.

    Attributes
    ----------
    place
        ``module:function``; the function's annotations declare the options and its int return value is the exit code.
    summary
        The first line of the function's docstring.
    panel
        Heading under which the root help lists it.
    """

    place: str
    summary: str
    panel: str


VERBS: Mapping[str, Verb] = {
    "simulate": Verb("training.cli:simulate", "Simulate events of one source into an event file.", "Surrogates"),
    "train": Verb("training.train_cli:train", "Train the surrogate of one source from an event file.", "Surrogates"),
    "validate": Verb("training.cli:validate", "Certify a surrogate against fresh events.", "Surrogates"),
    "inspect": Verb("training.cli:inspect", "Print what a checkpoint holds.", "Surrogates"),
    "validate-simulator": Verb(
        "training.simulator_cli:validate_simulator",
        "Compare the simulator with NEST and with published rates.",
        "Events",
    ),
    "plot-events": Verb(
        "training.simulator_cli:plot_events", "Draw event files: their projections, and their bands together.", "Events"
    ),
    "convert-events": Verb(
        "training.simulator_cli:convert_events",
        "Convert event files of another program into one that surrogates train on.",
        "Events",
    ),
    "draw": Verb("training.experiment_cli:draw", "Draw a data set of an experiment from the simulator.", "Inference"),
    "fit": Verb("inference.cli.model:fit", "Fit a statistical model to data.", "Inference"),
    "limit": Verb("inference.cli.model:limit", "Set a limit or an interval on the parameter of interest.", "Inference"),
    "compare": Verb(
        "inference.cli.comparison:compare",
        "Compare the best fits and limits of two models on the same data.",
        "Inference",
    ),
    "scan": Verb(
        "inference.cli.scan:scan", "Set limits at every value of a constant of the model, such as a mass.", "Inference"
    ),
    "toys": Verb(
        "inference.cli.study:toys",
        "Draw toy data sets at nominal parameters, or at those of --truth, into a file.",
        "Studies with toys",
    ),
    "neyman": Verb(
        "inference.cli.neyman:neyman",
        "Set an interval with critical values from a toy Neyman construction.",
        "Studies with toys",
    ),
    "sensitivity": Verb(
        "inference.cli.study:sensitivity",
        "Return the median limit and its bands over toys, background-only ones unless --truth says otherwise.",
        "Studies with toys",
    ),
    "coverage": Verb(
        "inference.cli.study:coverage",
        "Measure how often intervals hold the true value.",
        "Studies with toys",
    ),
    "discovery": Verb(
        "inference.cli.study:discovery",
        "Test the background-only hypothesis on the data.",
        "Studies with toys",
    ),
    "convert-alea": Verb(
        "inference.cli.model:convert_alea", "Say what of an alea model file could not be honoured.", "Inference"
    ),
}


def load(place: str) -> Any:
    """Import the module of ``module:name`` and return what the name stands for."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def explain_os_error(error: OSError) -> str:
    """Return one line for an operating-system error: the file, what went wrong and, where it helps, the remedy."""
    what = (error.strerror or str(error)).strip() or type(error).__name__
    place = f"{error.filename}: " if error.filename else ""
    remedy = {
        errno.ENOSPC: "; free some space or write elsewhere",
        errno.EDQUOT: "; free some space or write elsewhere",
        errno.EACCES: "; check the permissions or write elsewhere",
    }.get(error.errno or 0, "")
    return f"{place}{what[:1].lower()}{what[1:]}{remedy}"


def explain(error: Exception) -> str | None:
    """Return the message for an error of the input or of the file system; None for a defect of the program."""
    if isinstance(error, OSError):
        return explain_os_error(error)
    return str(error) if isinstance(error, load("surrogate.errors:XeflowError")) else None


def report_error(message: str) -> None:
    """Print ``error: message`` on standard error, unwrapped and without markup, so that it can be searched for."""
    typer.echo(f"error: {message}", err=True)


class LazyGroup(TyperGroup):
    """A group whose commands are placeholders until one is invoked, and which turns errors into exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept ``--debug`` after the verb as well as before it."""
        end = args.index("--") if "--" in args else len(args)
        if "--debug" in args[:end]:
            args = ["--debug", *(a for a in args[:end] if a != "--debug"), *args[end:]]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace the placeholder of the invoked verb by the real command."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is None:
            return name, command, rest
        single = typer.Typer(add_completion=False, rich_markup_mode="markdown")
        single.command(name)(load(VERBS[name].place))
        load("surrogate.memory:keep_freed_memory")()
        return name, get_command(single), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; errors of the input and of the file system end as one line and exit code 2."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            report_error("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            message = explain(error)
            if message is None:
                raise
            if ctx.params["debug"]:
                traceback.print_exc()
            report_error(message)
            raise typer.Exit(EXIT_BAD_INPUT) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xeflow {importlib.metadata.version('xeflow')}")
        raise typer.Exit


def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debugging messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Flow surrogates and profile-likelihood limits for dark-matter searches with liquid-xenon TPCs."""
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=debug)
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or debug or record.name.startswith(PACKAGES))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, format="%(message)s", handlers=[handler])


def _finish(code: int | None, debug: bool, version: bool) -> None:
    """Make the return value of a verb the exit code of the process."""
    raise typer.Exit(code or 0)


def _placeholder() -> int:
    """Stand for a verb that has not been loaded; it is never called."""
    return EXIT_BAD_INPUT


def build_app() -> typer.Typer:
    """Return the root application with one placeholder per verb."""
    app = typer.Typer(
        name="xeflow",
        cls=LazyGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        result_callback=_finish,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name, verb in VERBS.items():
        app.command(name, help=verb.summary, rich_help_panel=verb.panel)(_placeholder)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    arguments
        The words after ``xeflow``; those of the process when None.
    """
    for library in ("OMP", "MKL"):
        # small tensors gain nothing from more threads, and threads that wait for each other burn shared cores
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    try:
        get_command(build_app())(args=arguments, prog_name="xeflow")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
