"""What tells whether a value has changed, at a cost that has a bound."""

from __future__ import annotations

import itertools
import pickle
from collections import deque
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim.session.own_generators import is_generator
from lightning_shim.upstream.torch import count_of_writes
from lightning_shim.user_code.user_class import is_users_class


class Bound(NamedTuple):
    """The size from which a value is large."""

    objects: int
    size: int

    def __str__(self) -> str:
        return f"{self.objects:,} objects or {self.size // 1024**2} MiB"


IN_CHECKPOINTS: Final = Bound(100_000, 256 * 1024**2)
"""It takes some tenths of a second to pickle as many objects."""

IN_WORKERS: Final = Bound(10_000, 16 * 1024**2)
"""Each worker looks at its own copies, whenever it starts."""

_SAMPLES: Final = 4096
"""The number of samples that are looked at of a large tensor or array."""

_ENTRIES: Final = 64
"""The number of entries that are looked at of a large container."""

_DEPTH: Final = 3
"""The number of containers and objects within each other that are looked at of a large value."""

_PLAIN: Final = frozenset({type(None), bool, int, float, complex, str, bytes})
_CONTAINERS: Final = (list, tuple, deque, dict, set, frozenset)


def is_large(value: Any, packages: frozenset[str], bound: Bound) -> bool:
    """Whether a value is larger than a bound."""
    objects = size = 0
    seen: set[int] = set()
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, (str, bytes, bytearray)):
            size += len(entry)
        elif isinstance(entry, (Tensor, np.ndarray)):
            size += entry.nbytes if _is_in_memory(entry) else 0
        elif type(entry) not in _PLAIN and id(entry) not in seen:
            seen.add(id(entry))
            count, entries = _entries(entry, packages)
            objects += count
            if objects <= bound.objects:
                waiting.extend(entries)
        if objects > bound.objects or size > bound.size:
            return True
    return False


def _entries(value: Any, packages: frozenset[str]) -> tuple[int, Iterable[Any]]:
    if isinstance(value, dict):
        return 2 * len(value), itertools.chain(value.keys(), value.values())
    if isinstance(value, _CONTAINERS):
        return len(value), value
    attributes = vars(value) if hasattr(value, "__dict__") and _is_opened(value, packages) else {}
    return len(attributes), attributes.values()


def mark_of(value: Any, packages: frozenset[str], depth: int = _DEPTH) -> Any:
    """Returns something that changes with a large value, if it is replaced, grows, shrinks or is shuffled.

    A write to a single entry, or to a part of an array, may leave it the same.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, Tensor) and _is_in_memory(value):
        count = None if value.is_inference() else count_of_writes(value)
        return id(value), count, value.data_ptr(), tuple(value.shape), samples_of(value).cpu().numpy().tobytes()
    if type(value) is np.ndarray:
        step = max(1, value.size // _SAMPLES)
        return id(value), value.ctypes.data, value.shape, value.flat[::step].tobytes()
    if depth == 0:
        return id(value)
    if isinstance(value, _CONTAINERS):
        count, entries = _entries(value, packages)
        chosen = itertools.islice(entries, 0, None, max(1, count // _ENTRIES))
        return id(value), count, tuple(mark_of(entry, packages, depth - 1) for entry in chosen)
    _, attributes = _entries(value, packages)
    return id(value), tuple(mark_of(entry, packages, depth - 1) for entry in attributes)


def samples_of(tensor: Tensor) -> Tensor:
    """Returns a few numbers from all over a tensor's storage."""
    storage = tensor.untyped_storage()
    count = min(_SAMPLES, storage.nbytes() // 8)
    samples = torch.empty(0, dtype=torch.int64, device=tensor.device)
    return samples.set_(storage, 0, (count,), (storage.nbytes() // 8 // max(1, count),))


def fingerprint_of(value: Any, packages: frozenset[str], bound: Bound) -> Any:
    """Returns something that changes with a value; of one of ``bound`` or more it looks at a few entries.

    Random generators, and objects that are not looked into, are as None: they are made when they are first needed.
    """
    if type(value) in _PLAIN:
        return value
    if not _is_read(value, packages):
        return None
    if is_large(value, packages, bound):
        return mark_of(value, packages)
    pickler = _FingerprintPickler(packages)
    try:
        pickler.dump(value)
    except Exception:
        # An object's own methods may raise anything.
        return None
    return pickler.digest()


class _FingerprintPickler(pickle.Pickler):
    def __init__(self, packages: frozenset[str]) -> None:
        self._hash: Final = xxhash.xxh3_128()
        self._packages: Final = packages
        super().__init__(SimpleNamespace(write=self._hash.update), protocol=5)

    def digest(self) -> bytes:
        return self._hash.digest()

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, Tensor) and _is_in_memory(value):
            numbers = value.detach().cpu().contiguous().reshape(-1)
            return str(value.dtype), tuple(value.shape), numbers.view(torch.uint8).numpy().tobytes()
        if isinstance(value, (np.ndarray, np.generic)):
            return str(value.dtype), value.shape, value.tobytes()
        return None if _is_read(value, self._packages) else "other"


def _is_read(value: Any, packages: frozenset[str]) -> bool:
    if is_generator(value):
        return False
    if isinstance(value, (*_PLAIN, *_CONTAINERS, np.ndarray, np.generic)):
        return True
    return _is_in_memory(value) if isinstance(value, Tensor) else _is_opened(value, packages)


def _is_opened(value: Any, packages: frozenset[str]) -> bool:
    """Whether an object is what is in its attributes. Datasets and samplers are looked at by themselves."""
    is_apart = isinstance(value, (nn.Module, Dataset, Sampler, DataLoader))
    return not is_apart and is_users_class(type(value), packages)


def _is_in_memory(value: Tensor | np.ndarray[Any, Any]) -> bool:
    return not isinstance(value, Tensor) or (value.layout is torch.strided and not value.is_meta)
