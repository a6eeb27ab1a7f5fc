"""The shape to which shapes broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def broadcast_shape(*shapes: Sequence[int]) -> torch.Size:
    """Return the shape to which some broadcast.

    What ``torch.broadcast_shapes`` returns; that function imports a symbolic algebra system when it is first called,
    which costs more than a whole fit.

    Raises
    ------
    ValueError
        If they do not broadcast.
    """
    return torch.Size(np.broadcast_shapes(*(tuple(shape) for shape in shapes)))
