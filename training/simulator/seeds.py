"""Counter-based random streams: the stream of batch k depends on (seed, label, k) alone."""

from __future__ import annotations

import hashlib

import torch

from surrogate.errors import ConfigError


def stream(seed: int, label: str, index: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of batch ``index`` of the run (seed, label).

    torch's CPU engine is seeded with 32 bits. A hash of (seed, label) picks an origin among them, and batches count
    from it: no two batches of a run share a stream. CPU and CUDA streams differ.

    Raises
    ------
    ConfigError
        Unless 0 <= seed < 2^63.
    """
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed = {seed} must be in [0, 2^63)")
    origin = int.from_bytes(hashlib.sha256(f"{seed}:{label}".encode()).digest()[:4], "little")
    return torch.Generator(device=device).manual_seed((origin + index) % 2**32)
