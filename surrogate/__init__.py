"""f(x | theta) and mu(theta) of one source: flows, templates and what they share."""

from surrogate.acceptance import AcceptanceModel, fit_acceptance
from surrogate.binned import BinnedSource
from surrogate.certificate import Certificate, read_certificate, write_certificate
from surrogate.checkpoint import describe_checkpoint, load_checkpoint, save_checkpoint
from surrogate.ensemble import EnsembleSource
from surrogate.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    RangeError,
    UncertifiedError,
    XeflowError,
)
from surrogate.flow import ConditionalFlow
from surrogate.flow_config import FlowConfig
from surrogate.flow_source import FlowSource
from surrogate.guides import ElectronLifetimeGuide, PhotonGainGuide
from surrogate.jet import Jet
from surrogate.nuisance import Nuisance, NuisanceSpace
from surrogate.observables import Observable, ObservableSpace
from surrogate.source import Source
from surrogate.template import Template, TemplateSource

__all__ = [
    "AcceptanceModel",
    "BinnedSource",
    "Certificate",
    "CheckpointError",
    "ConditionalFlow",
    "ConfigError",
    "DataError",
    "ElectronLifetimeGuide",
    "EnsembleSource",
    "FlowConfig",
    "FlowSource",
    "Jet",
    "Nuisance",
    "NuisanceSpace",
    "Observable",
    "ObservableSpace",
    "PhotonGainGuide",
    "RangeError",
    "Source",
    "Template",
    "TemplateSource",
    "UncertifiedError",
    "XeflowError",
    "describe_checkpoint",
    "fit_acceptance",
    "load_checkpoint",
    "read_certificate",
    "save_checkpoint",
    "write_certificate",
]
