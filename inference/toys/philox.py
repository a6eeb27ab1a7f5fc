"""Counter-based random numbers: every draw is a function of (seed, index, stream, draw) and of nothing else.

The generator is Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11,
doi:10.1145/2063384.2063405): ten rounds of multiplications that scramble a 128-bit counter under a 64-bit key. The key
is the seed of a study; the counter holds the 64-bit index of a toy, a 32-bit stream (what is drawn) and a 32-bit draw
number. Toy k therefore has the same random numbers in any batch, in any order, on any number of workers.
"""

from __future__ import annotations

import hashlib

import torch
from scipy import special
from torch import Tensor

from surrogate.errors import RangeError

MASK = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

#: Seeds are keys of the generator: unsigned, 64 bits.
MAX_SEED = 2**64 - 1


def check_seed(seed: int) -> None:
    """Raise RangeError unless 0 <= seed < 2^64."""
    if not 0 <= seed <= MAX_SEED:
        raise RangeError(f"seed = {seed} must be an integer from 0 to 2^64 - 1")


def _multiply(a: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """Return the high and the low 32 bits of a x m, both factors below 2^32, without leaving 63 bits."""
    low = (a & 0xFFFF) * m
    high = (a >> 16) * m + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox(seed: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four random 32-bit words for each counter.

    Parameters
    ----------
    seed
        The key, below 2^64.
    counter
        Four int64 tensors of values below 2^32, broadcast against each other.

    Returns
    -------
    tuple of Tensor
        Four int64 tensors of the common shape, each word uniform on 0 .. 2^32 - 1.

    Raises
    ------
    RangeError
        If the seed has more than 64 bits.
    """
    check_seed(seed)
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = seed & MASK, seed >> 32
    for _ in range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return c0, c1, c2, c3


def stream_of(*words: str) -> int:
    """Return the 32-bit stream that belongs to a name, such as ("counts", "sr0", "er").

    Streams are named, not numbered, so that a source added to a model leaves the draws of the others as they were.
    """
    return int.from_bytes(hashlib.sha256("\0".join(words).encode()).digest()[:4], "little")


def _unit(high: Tensor, low: Tensor) -> Tensor:
    """Return 52 random bits as a double strictly between 0 and 1."""
    return (((high << 20) | (low >> 12)).to(torch.float64) + 0.5) * 2.0**-52


def uniforms(seed: int, index: Tensor, stream: int | Tensor, draw: int | Tensor, width: int = 1) -> Tensor:
    """Return uniform numbers in the open interval (0, 1).

    Parameters
    ----------
    seed
        The key.
    index
        int64 (*,) >= 0: which toy.
    stream
        What is drawn, from :func:`stream_of`; a number or int64 (*,).
    draw
        Which draw of that stream, such as the number of the event; a number or int64 (*,).
    width
        How many numbers a draw needs. Part of the identity of a stream: draw d of width w uses the counters from
        d ceil(w/2) on.

    Returns
    -------
    Tensor
        (*, width) float64.
    """
    index = torch.as_tensor(index, dtype=torch.int64)
    device = index.device
    stream = torch.as_tensor(stream, dtype=torch.int64, device=device)
    draw = torch.as_tensor(draw, dtype=torch.int64, device=device)
    blocks = (width + 1) // 2
    number = (draw.unsqueeze(-1) * blocks + torch.arange(blocks, device=device)) & MASK
    words = philox(
        seed,
        (number, stream.unsqueeze(-1), (index & MASK).unsqueeze(-1), ((index >> 32) & MASK).unsqueeze(-1)),
    )
    pairs = torch.stack([_unit(words[0], words[1]), _unit(words[2], words[3])], dim=-1)
    return pairs.flatten(-2)[..., :width]


def poisson_counts(u: Tensor, mean: Tensor) -> Tensor:
    """Return the smallest k with P(N <= k | mean) >= u, elementwise: int64, Poisson distributed for uniform u."""
    u, mean = u.cpu(), mean.cpu()
    positive = mean.clamp_min(1e-300).numpy()
    guess = special.pdtrik(u.numpy(), positive).clip(min=0.0)
    k = torch.from_numpy(guess).ceil()
    # The inverse is found by iteration: one step either way makes it exact.
    below = torch.from_numpy(special.pdtr((k - 1).clamp_min(0).numpy(), positive))
    k = torch.where((k > 0) & (below >= u), k - 1, k)
    k = torch.where(torch.from_numpy(special.pdtr(k.numpy(), positive)) < u, k + 1, k)
    return torch.where(mean > 0, k, torch.zeros_like(k)).to(torch.int64)
