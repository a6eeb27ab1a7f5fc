"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The reference data directory: XEFLOW_SHARED, or ``shared`` beside the repository; skips where there is none."""
    root = Path(os.environ.get("XEFLOW_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "data").is_dir():
        pytest.skip(f"no reference data at {root}; set XEFLOW_SHARED to the directory that holds data/ and reference/")
    return root
