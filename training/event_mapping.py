"""How the columns of a foreign event file are to be read: observables, theta, counts, weights and truth.

Example::

    observables:
      - {name: s1, unit: PE, column: s1, low: 2, high: 70, scale: log, offset: 2}
      - {name: drift_time, unit: us, column: drift_time, factor: 1.0e-3, low: 0, high: 731}
      - {name: hits, unit: "", low: 2.5, high: 40.5, scale: counts}
    nuisances:
      - {name: elife, unit: us, column: 0, factor: 1.0e-3, low: 250, high: 900, nominal: 452, scale: log}
    theta: {table: theta, index: theta_index}
    n_generated: {column: n_simulated}
    generated_rate: 1000
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from surrogate.block import Block
from surrogate.errors import ConfigError
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace, Scale
from training.blocks import read_yaml, validation_message


class ObservableColumn(Block):
    """An observable: ``factor`` times the column; its name if no column is given. ``edges`` go with scale ``bins``."""

    name: str
    unit: str
    low: float
    high: float
    scale: Scale = "linear"
    offset: float = 0.0
    edges: tuple[float, ...] = ()
    column: str | None = None
    factor: float = 1.0

    @property
    def source(self) -> str:
        """The column to read."""
        return self.name if self.column is None else self.column

    def build(self) -> Observable:
        """Return the observable."""
        return Observable(self.name, self.unit, self.low, self.high, self.scale, self.offset, self.edges)


class NuisanceColumn(Block):
    """A nuisance parameter: ``factor`` times its column, of the events or (a number) of the theta table."""

    name: str
    unit: str
    low: float
    high: float
    nominal: float
    scale: Literal["linear", "log"] = "linear"
    column: str | int | None = None
    factor: float = 1.0

    @property
    def source(self) -> str:
        """The column of the events to read."""
        return self.name if self.column is None else str(self.column)

    def build(self) -> Nuisance:
        """Return the nuisance parameter."""
        return Nuisance(self.name, self.unit, self.low, self.high, self.nominal, self.scale)


class TruthColumn(Block):
    """A truth column to carry along."""

    name: str
    column: str | None = None
    factor: float = 1.0

    @property
    def source(self) -> str:
        """The column to read."""
        return self.name if self.column is None else self.column


class ThetaTable(Block):
    """A table of theta, one row per block, and the event column that holds the row of each event."""

    table: str
    index: str


class FileTheta(Block):
    """Theta of a whole file, by its name: a value per nuisance parameter, in the units of the mapping."""

    file: str
    values: dict[str, float]
    n_generated: Annotated[int, Field(ge=1)] | None = None


class CountColumn(Block):
    """Generated events per row of the theta table."""

    column: str


class AttributeValue(Block):
    """A number among the attributes of the file."""

    attribute: str


class EventMapping(Block):
    """What the columns of a foreign file mean.

    ``theta`` is a table with an index column, a list of values per file, ``columns`` (each row carries its own values
    in the columns of the nuisance parameters), or absent where there are no nuisance parameters.

    ``n_generated`` is ``rows`` where each row of the files is a generated event, lost ones included: those whose column
    ``kept`` is 0, and with ``outside: drop`` those outside the windows. Otherwise it is a column of the table, a number
    per row of the table or per file, or absent: then nothing can be trained, for want of an acceptance. Thetas in
    columns need ``rows``: kept events alone do not tell how many were generated at which theta.
    """

    observables: Annotated[tuple[ObservableColumn, ...], Field(min_length=1)]
    nuisances: tuple[NuisanceColumn, ...] = ()
    theta: ThetaTable | tuple[FileTheta, ...] | Literal["columns"] | None = None
    n_generated: CountColumn | Literal["rows"] | Annotated[int, Field(ge=1)] | None = None
    kept: str | None = None
    generated_rate: AttributeValue | float | None = None
    weight: str | None = None
    truth: tuple[TruthColumn, ...] = ()
    outside: Literal["drop", "error"] = "error"

    @model_validator(mode="after")
    def _consistent(self) -> EventMapping:
        if bool(self.nuisances) != (self.theta is not None):
            raise ValueError("give theta exactly when there are nuisances")
        if isinstance(self.n_generated, CountColumn) and not isinstance(self.theta, ThetaTable):
            raise ValueError("n_generated from a column needs theta from a table")
        if isinstance(self.n_generated, int) and isinstance(self.theta, tuple):
            raise ValueError("n_generated as a number is for files without theta; give it per file under theta")
        if self.n_generated == "rows" and isinstance(self.theta, tuple) and any(t.n_generated for t in self.theta):
            raise ValueError("n_generated: rows counts the events of each file; give no numbers under theta")
        if self.kept is not None and self.n_generated != "rows":
            raise ValueError("kept says which rows were kept of n_generated: rows; leave it out, or count the rows")
        if isinstance(self.theta, ThetaTable) and any(not isinstance(n.column, int) for n in self.nuisances):
            raise ValueError("with a theta table, the column of a nuisance is its number in the table (0, 1, ...)")
        if self.theta == "columns" and any(isinstance(n.column, int) for n in self.nuisances):
            raise ValueError("with theta: columns, the column of a nuisance is the name of an event column")
        if self.theta == "columns" and self.n_generated != "rows":
            raise ValueError(
                "theta: columns needs n_generated: rows, and files with a row for each generated event, lost ones "
                "included; for files of kept events alone give a table of all generated thetas and the row of each "
                "event in it (theta: {table: ..., index: ...}, n_generated: 1)"
            )
        return self

    @property
    def space(self) -> ObservableSpace:
        """The observable space."""
        return ObservableSpace(tuple(o.build() for o in self.observables))

    @property
    def nuisance_space(self) -> NuisanceSpace:
        """The nuisance space."""
        return NuisanceSpace(tuple(n.build() for n in self.nuisances))


def read_mapping(path: Path) -> EventMapping:
    """Read a mapping from a YAML file.

    Raises
    ------
    ConfigError
        If it cannot be read, a key is unknown or missing, or its parts contradict each other.
    """
    try:
        return EventMapping.model_validate(read_yaml(path))
    except ValidationError as error:
        raise ConfigError(validation_message(path, error)) from error
