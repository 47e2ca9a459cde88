"""Digests of tensors on GPUs, by which changes are recognised without a copy of the numbers on the host."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_CHUNK: Final = 2**20
"""The numbers that are digested at a time, since each takes 32 bytes of the GPU meanwhile."""

_WORDS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32}
"""The integers whose bits stand for those of a number, by its size in bytes; larger numbers are of several."""

# The constants of SplitMix64, a generator of random numbers whose mixing step changes half of the bits if one changes.
_STRIDE: Final = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS: Final = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


def digest_on_device(tensor: Tensor) -> bytes:
    """Returns 16 bytes that change along with a tensor's numbers; they are all that is copied to the host."""
    numbers = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    words = numbers.view(_WORDS.get(numbers.element_size(), torch.int64))
    sums = torch.zeros(2, dtype=torch.int64, device=words.device)
    for start in range(0, len(words), _CHUNK):
        chunk = words[start : start + _CHUNK].to(torch.int64, copy=True)
        # Each word is mixed with its position before they are added, or two that change places would go unnoticed; and
        # once more, since 64 bits are few.
        chunk += torch.arange(start + 1, start + 1 + len(chunk), device=words.device) * _STRIDE
        for index in range(2):
            _mix(chunk)
            sums[index] += chunk.sum()
    return sums.cpu().numpy().tobytes()


def _mix(words: Tensor) -> None:
    """Spreads each bit over its word, in place."""
    for shift, factor in _ROUNDS:
        # PyTorch's shift fills up with the sign, which would lose a bit.
        words ^= (words >> shift) & (2 ** (64 - shift) - 1)
        words *= factor
