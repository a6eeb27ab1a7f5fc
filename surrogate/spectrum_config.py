"""The recoil spectra that a YAML file can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from surrogate.beta_spectra import (
    BETA_DECAYS,
    beta_spectrum,
    exponential_spectrum,
    flat_spectrum,
    gaussian_spectrum,
    line_spectrum,
    table_spectrum,
)
from surrogate.block import Block
from surrogate.errors import unknown_name
from surrogate.library_spectra import wimprates_spectrum
from surrogate.nuclear_spectra import (
    NeutrinoNorm,
    WimpNorm,
    cevns_b8_spectrum,
    neutron_spectrum,
    wimp_si_spectrum,
)
from surrogate.spectrum import Spectrum


class FlatBlock(Block):
    """Flat between two energies."""

    kind: Literal["flat"]
    low: float = 0.05
    high: float = 25.0
    rate_per_kev: float

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return flat_spectrum(self.low, self.high, self.rate_per_kev)


class BetaBlock(Block):
    """An allowed beta decay; ``rate`` counts all decays, also those outside [low, high]."""

    kind: Literal["beta"]
    isotope: str
    rate: float
    low: float = 0.0
    high: float | None = None

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        if self.isotope not in BETA_DECAYS:
            raise ValueError(unknown_name("isotope", self.isotope, BETA_DECAYS))
        end_point, charge = BETA_DECAYS[self.isotope]
        return beta_spectrum(self.isotope, end_point, charge, self.rate, self.low, self.high)


class LineBlock(Block):
    """A mono-energetic line."""

    kind: Literal["line"]
    energy: float
    rate: float

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return line_spectrum(self.energy, self.rate)


class GaussianBlock(Block):
    """A Gaussian peak."""

    kind: Literal["gaussian"]
    mean: float
    sigma: float
    rate: float

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return gaussian_spectrum(self.mean, self.sigma, self.rate)


class ExponentialBlock(Block):
    """A falling exponential."""

    kind: Literal["exponential"]
    scale: float
    low: float
    high: float
    rate: float

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return exponential_spectrum(self.scale, self.low, self.high, self.rate)


class TableBlock(Block):
    """A CSV table of energy and dR/dE; a relative path is relative to the YAML file."""

    kind: Literal["table"]
    path: str
    rate: float | None = None

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum, scaled to ``rate`` where given."""
        spectrum = table_spectrum(folder / self.path)
        return spectrum if self.rate is None else spectrum.normalised(self.rate)


class WimpBlock(Block):
    """Spin-independent WIMPs."""

    kind: Literal["wimp_si"]
    mass: float
    cross_section: float
    low: float | None = None
    norm: WimpNorm = "standard"

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return wimp_si_spectrum(self.mass, self.cross_section, self.low, self.norm)


class WimpratesBlock(Block):
    """A spectrum from the library wimprates, with its names of interactions and mechanisms."""

    kind: Literal["wimprates"]
    mass: float
    cross_section: float
    low: float
    high: float
    interaction: str = "SI"
    mechanism: str = "elastic_nr"

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return wimprates_spectrum(self.mass, self.cross_section, self.low, self.high, self.interaction, self.mechanism)


class NeutrinoBlock(Block):
    """Solar 8B neutrinos."""

    kind: Literal["cevns_b8"]
    low: float = 0.5
    norm: NeutrinoNorm = "xenonnt"

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return cevns_b8_spectrum(self.low, self.norm)


class NeutronBlock(Block):
    """Radiogenic neutrons."""

    kind: Literal["neutron"]
    rate: float
    low: float = 0.5
    high: float = 200.0

    def build(self, folder: Path) -> Spectrum:
        """Return the spectrum."""
        return neutron_spectrum(self.rate, self.low, self.high)


SpectrumBlock = Annotated[
    FlatBlock
    | BetaBlock
    | LineBlock
    | GaussianBlock
    | ExponentialBlock
    | TableBlock
    | WimpBlock
    | WimpratesBlock
    | NeutrinoBlock
    | NeutronBlock,
    Field(discriminator="kind"),
]
