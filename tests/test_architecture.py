"""The architecture as rules over the parsed source: who may import what, who may know what, how large things grow.

The rules are the data at the top; each test below applies one of them to every file.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Which packages a package may import besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "surrogate": set(),
    "training": {"surrogate"},
    "inference": {"surrogate"},
    "xeflow": set(),
}

# Within a package a file imports only what stands above it. A sub-package's __init__ stands under its folder's name.
ORDER: dict[str, tuple[str, ...]] = {
    "surrogate": (
        "errors",
        "shipped",
        "atomic",
        "tick_plots",
        "locks",
        "memory",
        "shapes",
        "block",
        "tables",
        "spectrum",
        "beta_spectra",
        "nuclear_spectra",
        "library_spectra",
        "spectrum_config",
        "observables",
        "nuisance",
        "context",
        "jet",
        "cells",
        "source",
        "univariate",
        "spline",
        "histogram",
        "guides",
        "flow_config",
        "flow_layers",
        "flow",
        "mixture_jet",
        "histogram_jet",
        "flow_jet",
        "masked_network",
        "mixture_kernel",
        "flow_kernel",
        "basis",
        "logistic",
        "acceptance",
        "ray_acceptance",
        "moved_acceptance",
        "flow_source",
        "ensemble",
        "variations",
        "jet_algebra",
        "quadrature",
        "response",
        "spectrum_source",
        "flow_response",
        "binning",
        "morph",
        "template",
        "template_response",
        "template_io",
        "file_names",
        "binned",
        "checkpoint",
        "certificate",
    ),
    "training": (
        "simulator.seeds",
        "simulator.detector",
        "simulator.spaces",
        "simulator.theta",
        "simulator.yields",
        "simulator.nr_yields",
        "simulator.quanta",
        "simulator.signals",
        "simulator.tpc",
        "simulator.sources",
        "simulator.mono",
        "simulator.simulate",
        "simulator.accidentals",
        "simulator.wall",
        "simulator.catalogue",
        "simulator",
        "nest_reference",
        "simulator_validation",
        "events",
        "simulator_plots",
        "event_writer",
        "foreign_files",
        "simulation_plan",
        "simulation",
        "blocks",
        "event_mapping",
        "event_adapters",
        "source_config",
        "simulator_config",
        "experiment",
        "split",
        "event_set",
        "paths",
        "template_set",
        "symmetries",
        "supply",
        "template_events",
        "batches",
        "data_settings",
        "settings",
        "config",
        "averaging",
        "schedule",
        "optimisers",
        "progress",
        "history",
        "run_files",
        "datamodule",
        "module",
        "fit",
        "prepare",
        "jobs",
        "train_record",
        "threads",
        "criteria",
        "advice",
        "validation_target",
        "validation_density",
        "validation_comparison",
        "validation_sample",
        "validation_rate",
        "validation",
        "plots",
        "acceptance_fit",
        "train",
        "simulator_cli",
        "experiment_cli",
        "train_cli",
        "truth_fits",
        "truth",
        "template_validation",
        "template_plots",
        "validation_job",
        "cli",
    ),
    "inference": (
        "record",
        "record_store",
        "rows",
        "expansion.polynomial",
        "toys.philox",
        "constraints.constraint",
        "constraints.skewed",
        "constraints.gaussian",
        "constraints.uniform",
        "constraints.ancillary",
        "constraints",
        "parameters",
        "physical",
        "science_run",
        "data.event_checks",
        "data.dataset",
        "data.files",
        "data.input",
        "data",
        "likelihood.event_density",
        "likelihood.rate_term",
        "likelihood.source_group",
        "likelihood.run_term",
        "likelihood.extended",
        "likelihood",
        "expansion.region",
        "expansion.chart",
        "expansion.theta_basis",
        "expansion.event_table",
        "expansion.density",
        "expansion.source_fit",
        "expansion.error",
        "expansion.report",
        "expansion.build",
        "expansion",
        "minimize.status",
        "minimize.objective",
        "minimize.cells",
        "minimize.coordinates",
        "minimize.minimum",
        "minimize.quadratic",
        "minimize.newton",
        "minimize",
        "fits.fit_rows",
        "fits.fitter",
        "fits.batch_fit",
        "results",
        "fits.fit",
        "fits",
        "intervals.statistics",
        "profiles.tangent",
        "profiles.crossing_records",
        "profiles.crossing_state",
        "profiles.crossing",
        "profiles.profile",
        "profiles.corner",
        "profiles",
        "intervals.asymptotics",
        "intervals.confidence",
        "intervals.expanded_fit",
        "intervals.quick_results",
        "intervals.surrogate_error",
        "intervals",
        "toys.draws",
        "pools.weights",
        "pools.event_pool",
        "pools.partly_exact",
        "pools.reduced_basis",
        "pools.region",
        "pools.builder",
        "pools.store",
        "pools.choice",
        "pools.given_events",
        "pools.sampled_sets",
        "toys.asimov",
        "toys.toy_tables",
        "toys.toy_fits",
        "toys",
        "studies.study_record",
        "studies.storage",
        "studies.study",
        "studies.distributed",
        "studies.counting",
        "studies.critical_values",
        "studies.cls",
        "studies.power_constraint",
        "studies.look_elsewhere",
        "pools.pairs",
        "pools",
        "studies.toy_pairs",
        "studies.neyman",
        "studies.cls_limits",
        "studies.discovery",
        "studies.limit_work",
        "studies.sensitivity",
        "studies.coverage",
        "studies",
        "configuration.alea_results",
        "configuration.conversion",
        "configuration.expressions",
        "configuration.config",
        "configuration.alea_rules",
        "configuration.alea",
        "configuration.alea_parameters",
        "configuration.search_path",
        "configuration.template_reader",
        "configuration.response_reader",
        "configuration.assembly",
        "configuration",
        "reports.projections",
        "analysis",
        "toy_studies",
        "reports.cls_study",
        "model",
        "reports.plots",
        "reports.corner_plots",
        "reports.pull_plots",
        "reports.summary",
        "reports.report",
        "reports.comparison",
        "reports.comparison_plots",
        "reports.study_plots",
        "reports.study_report",
        "reports.coverage_study",
        "reports.scan",
        "reports.scan_plots",
        "reports.scan_report",
        "reports",
        "cli.options",
        "cli.study",
        "cli.scan",
        "cli.neyman",
        "cli.comparison",
        "cli.model",
        "cli",
    ),
}

EVERYONE = None

# Modules that only the named files may import (patterns allowed); the longest matching name decides.
KNOWN_ONLY_TO: dict[str, set[str] | None] = {
    "nflows": {"surrogate/flow_layers.py"},
    "safetensors": {"surrogate/checkpoint.py"},
    "filelock": {"surrogate/locks.py"},
    "lightning": {"training/datamodule.py", "training/module.py", "training/fit.py"},
    "pytorch_lightning": set(),
    "yaml": {
        "training/blocks.py",
        "training/config.py",
        "inference/configuration/config.py",
        "inference/configuration/alea.py",
    },
    "h5py": {
        "surrogate/template_io.py",
        "training/events.py",
        "training/event_writer.py",
        "training/experiment.py",
        "training/event_adapters.py",
        "training/foreign_files.py",
        "inference/studies/storage.py",
        "inference/record_store.py",
        "inference/data/files.py",
        "inference/configuration/alea_results.py",
    },
    "matplotlib": {"training/*plots.py", "inference/*plots.py", "surrogate/tick_plots.py"},
    "wimprates": set(),
    "dask": {"inference/studies/distributed.py"},
    "distributed": {"inference/studies/distributed.py"},
    "typer": {"training/*cli.py", "inference/cli/*.py", "xeflow.py"},
    # The verbs are loaded on demand; so is wimprates, which takes a second and warns when it is imported.
    "importlib": {"xeflow.py", "surrogate/library_spectra.py"},
    "importlib.metadata": EVERYONE,
    "subprocess": set(),
    "pickle": set(),
    "cloudpickle": set(),
    "dill": set(),
    "marshal": set(),
    "shelve": set(),
    "joblib": set(),
}

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "breakpoint", "input", "globals"}

# Keyword arguments with these values open a door to code in data files.
FORBIDDEN_KEYWORDS = {("weights_only", "False"), ("allow_pickle", "True"), ("shell", "True")}

# Files whose functions may take **keywords: the face that takes parameter values by name.
KEYWORD_CATCHERS = {"inference/model.py", "inference/analysis.py"}

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60  # without the docstring
MAX_CLASS_LINES = 200

# What no tracked text file may say: paths of one machine, and unfinished work.
FORBIDDEN_TEXT = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|tmp|root|home/\w+)/"),
    "unfinished work": re.compile(r"\b(?:TODO|FIXME|XXX)\b|raise NotImplementedError"),
}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cff", ".json", ".csv", ""}


@cache
def sources() -> dict[str, ast.Module]:
    """Return every file of the packages and the root module, by path relative to the repository."""
    files = [p for package in ORDER for p in sorted((ROOT / package).rglob("*.py"))] + [ROOT / "xeflow.py"]
    return {str(p.relative_to(ROOT)): ast.parse(p.read_text(encoding="utf-8")) for p in files}


def module_name(path: str) -> tuple[str, str]:
    """Return the package of a file and its dotted name inside; ``""`` for the package's own __init__."""
    package, *rest = Path(path).with_suffix("").parts
    if rest and rest[-1] == "__init__":
        rest.pop()
    return package, ".".join(rest)


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the dotted name of everything a file imports, ``from a import b`` as ``a.b``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}"


def place_in_order(package: str, dotted: str) -> int | None:
    """Return where the longest listed prefix of a dotted name stands in its package's order; None when none is."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in ORDER[package]:
            return ORDER[package].index(name)
    return None


def name_of(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many lines a function has, its docstring not counted."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def complain(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


def test_every_file_has_its_place():
    listed = {(package, name) for package, names in ORDER.items() for name in names}
    problems = []
    for path in sources():
        package, name = module_name(path)
        if package in ORDER and name and (package, name) not in listed:
            problems.append(
                f"{path}: add '{name}' to ORDER['{package}'] in {Path(__file__).name}, below all it imports"
            )
    complain(problems)


def test_every_place_has_its_file_and_is_given_once():
    there = {module_name(path) for path in sources()}
    complain([f"ORDER['{p}']: '{n}' is no file" for p, names in ORDER.items() for n in names if (p, n) not in there])
    complain(
        [f"ORDER['{p}']: '{n}' is listed twice" for p, names in ORDER.items() for n in names if names.count(n) > 1]
    )


def test_packages_import_only_those_below_them():
    problems = []
    for path, tree in sources().items():
        package, _ = module_name(path)
        for line, name in imports(tree):
            other = name.split(".")[0]
            if other in MAY_IMPORT and other != package and other not in MAY_IMPORT[package]:
                problems.append(f"{path}:{line}: {package} must not import {other} ({name})")
    complain(problems)


def test_files_import_only_what_stands_above_them():
    problems = []
    for path, tree in sources().items():
        package, name = module_name(path)
        if package not in ORDER or name == "":
            continue
        own = place_in_order(package, name)
        for line, imported in imports(tree):
            first, _, rest = imported.partition(".")
            if imported.startswith("."):
                problems.append(f"{path}:{line}: relative import {imported}; write the full name")
            if first != package or own is None:
                continue
            other = place_in_order(package, rest)
            if other is None:
                problems.append(f"{path}:{line}: {imported} is re-exported by the package itself; import the file")
            elif other >= own:
                problems.append(f"{path}:{line}: {imported} stands below {name} in ORDER['{package}']")
    complain(problems)


def test_who_knows_what():
    problems = []
    for path, tree in sources().items():
        for line, name in imports(tree):
            keys = [key for key in KNOWN_ONLY_TO if name == key or name.startswith(f"{key}.")]
            allowed = KNOWN_ONLY_TO[max(keys, key=len)] if keys else EVERYONE
            if allowed is not EVERYONE and not any(fnmatch(path, pattern) for pattern in allowed):
                problems.append(
                    f"{path}:{line}: {name} may be imported only by {', '.join(sorted(allowed)) or 'nobody'}"
                )
    complain(problems)


def test_imports_stand_at_the_top():
    problems = []
    for path, tree in sources().items():
        problems += [
            f"{path}:{inner.lineno}: import inside {node.name}"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            for inner in ast.walk(node)
            if isinstance(inner, ast.Import | ast.ImportFrom)
        ]
    complain(problems)


def test_no_code_from_data_and_no_hidden_state():
    problems = []
    for path, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and name_of(node) in FORBIDDEN_CALLS:
                problems.append(f"{path}:{node.lineno}: {name_of(node)}()")
            if isinstance(node, ast.keyword) and (node.arg, ast.unparse(node.value)) in FORBIDDEN_KEYWORDS:
                problems.append(f"{path}:{node.value.lineno}: {node.arg}={ast.unparse(node.value)}")
            if isinstance(node, ast.Global):
                problems.append(f"{path}:{node.lineno}: global {', '.join(node.names)}")
            if isinstance(node, ast.Assert):
                problems.append(f"{path}:{node.lineno}: assert is stripped by -O; raise an error that says what to do")
    complain(problems)


def test_no_keyword_relays():
    problems = []
    for path, tree in sources().items():
        if path in KEYWORD_CATCHERS:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.args.kwarg is not None:
                problems.append(f"{path}:{node.lineno}: {node.name}(**{node.args.kwarg.arg}); name the arguments")
    complain(problems)


def test_sizes():
    problems = []
    for path, tree in sources().items():
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            problems.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}; split it by concept")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body_lines(node) > MAX_FUNCTION_LINES:
                problems.append(
                    f"{path}:{node.lineno}: {node.name} has {body_lines(node)} lines, at most {MAX_FUNCTION_LINES}"
                )
            if isinstance(node, ast.ClassDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_CLASS_LINES:
                    problems.append(
                        f"{path}:{node.lineno}: class {node.name} has {length} lines, at most {MAX_CLASS_LINES}"
                    )
    complain(problems)


def test_init_files_only_re_export():
    problems = []
    for path, tree in sources().items():
        if not path.endswith("__init__.py"):
            continue
        if ast.get_docstring(tree) is None:
            problems.append(f"{path}: say in a docstring what the package is")
        for node in tree.body[1:]:
            exports = isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["__all__"]
            if not (exports or isinstance(node, ast.Import | ast.ImportFrom)):
                problems.append(f"{path}:{node.lineno}: only imports and __all__ belong here")
    complain(problems)


def test_text_says_nothing_of_one_machine_and_nothing_unfinished():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    problems = []
    for name in listing.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or path.suffix not in TEXT_SUFFIXES or path == Path(__file__).resolve() or not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            problems += [f"{name}:{number}: {what}" for what, pattern in FORBIDDEN_TEXT.items() if pattern.search(line)]
    complain(problems)
