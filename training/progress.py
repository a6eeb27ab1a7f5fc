"""Progress of simulations and trainings on the terminal."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from training.simulation import SimulationProgress

logger = logging.getLogger(__name__)


class TrainingProgress:
    """One bar over the whole training: steps, training and held-out NLL, time left; a context manager.

    Where standard error is no terminal, one line is logged per validation instead.

    Parameters
    ----------
    name
        Name of the run.
    total
        Steps of the training.
    shown
        False to show nothing.
    """

    def __init__(self, name: str, total: int, shown: bool = True) -> None:
        console = Console(stderr=True)
        self._name, self._total = name, total
        self._lines = shown and not console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("NLL {task.fields[train]:.4f}, held out {task.fields[held_out]:.4f}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=total, train=float("nan"), held_out=float("nan"))

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self, step: int) -> None:
        """Show that ``step`` steps are done."""
        self._bar.update(self._task, completed=step)

    def validated(self, step: int, train_nll: float, held_out_nll: float) -> None:
        """Show the NLL after a validation."""
        self._bar.update(self._task, completed=step, train=train_nll, held_out=held_out_nll)
        if self._lines:
            logger.info(
                "%s: step %d of %d, NLL %.4f, held out %.4f", self._name, step, self._total, train_nll, held_out_nll
            )


class SimulationBar:
    """One bar over a simulation: generated events, accepted ones, events per second, time left; a context manager.

    Parameters
    ----------
    title
        What is simulated.
    shown
        False to show nothing.
    """

    def __init__(self, title: str, shown: bool = True) -> None:
        console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[accepted]:,} accepted, {task.fields[speed]:.2f} M events/s"),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task(title, total=None, accepted=0, speed=0.0)
        self._start = time.perf_counter()

    def __enter__(self) -> SimulationBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, state: SimulationProgress) -> None:
        """Show how far the simulation is."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        speed = 1e-6 * (state.n_generated - state.resumed) / seconds
        self._bar.update(
            self._task, completed=state.n_generated, total=state.total, accepted=state.n_accepted, speed=speed
        )
