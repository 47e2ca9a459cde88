"""The objects that make a loader's batches: the loader, its samplers, its datasets and its ``collate_fn``."""

from __future__ import annotations

from types import FunctionType, MethodType
from typing import Any, Final

from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, Sampler, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

OF_PYTORCH: Final = (DataLoader, BatchSampler, RandomSampler, SequentialSampler, DistributedSampler)
"""PyTorch's classes, whose attributes are settings. Those of a user's class may count passes, epochs or samples."""

_SETTINGS: Final = frozenset(vars(DataLoader([])))  # type: ignore[arg-type]
"""The attributes that every DataLoader has."""

_MOST: Final = 32
"""The most parts of a loader: a dataset may be made of any number of others."""


def samplers_of(loader: Any) -> list[Any]:
    """Returns a loader's sampler and its batch sampler's sampler, each once; Lightning calls ``set_epoch`` on them."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None))
    return list({id(sampler): sampler for sampler in samplers if sampler is not None}.values())


def parts_of(loader: Any) -> dict[str, Any]:
    """Returns a loader's parts, and the datasets, samplers and loaders that these are made of.

    Their names are the same in each process, whether or not Lightning has wrapped the sampler.
    """
    names = ("batch_sampler", "sampler", "dataset", "collate_fn")
    return _found([loader, *(getattr(loader, name, None) for name in names)])


def parts_in_workers(dataset: Any, collate_fn: Any) -> dict[str, Any]:
    """Returns the parts of which each worker has a copy, by the names that :func:`parts_of` gives them."""
    return _found([dataset, collate_fn])


def attributes_of(part: Any) -> dict[str, Any]:
    """Returns the attributes of a part, without those that every DataLoader has."""
    left_out = _SETTINGS if isinstance(part, DataLoader) else ()
    return {name: value for name, value in vars(part).items() if name not in left_out}


def _found(waiting: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while waiting and len(found) < _MOST:
        part = waiting.pop(0)
        if isinstance(part, MethodType) and isinstance(part.__self__, (Dataset, Sampler, DataLoader)):
            # A dataset's own collate_fn, for example.
            part = part.__self__
        is_function = isinstance(part, (type, FunctionType, MethodType))
        if is_function or isinstance(part, nn.Module) or not hasattr(part, "__dict__"):
            continue
        if any(part is other for other in found.values()):
            continue
        name = type(part).__qualname__
        found[f"{name} {sum(type(other).__qualname__ == name for other in found.values())}"] = part
        for value in vars(part).values():
            entries = value if isinstance(value, (list, tuple)) and len(value) <= _MOST else [value]
            waiting += [entry for entry in entries if isinstance(entry, (Dataset, Sampler, DataLoader))]
    return found
