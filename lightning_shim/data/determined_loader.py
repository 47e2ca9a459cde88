"""Determined's own ``DataLoader``, which describes one of PyTorch's and cannot be iterated itself."""

from __future__ import annotations

from typing import Any, Final

from determined import pytorch
from torch.utils.data import DataLoader

_IN_COMMON: Final = (
    *("dataset", "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"),
    *("generator", "prefetch_factor", "persistent_workers"),
)
"""The arguments that both loaders have as attributes."""


def as_torch_loader(loader: Any) -> Any:
    """Builds PyTorch's loader for a ``determined.pytorch.DataLoader``; any other one is returned unchanged."""
    # Not by its own get_data_loader, which repeats, shards and skips batches: a trial does that for every loader alike.
    if not isinstance(loader, pytorch.DataLoader):
        return loader
    batches = (
        {"batch_sampler": loader.batch_sampler}
        if loader.batch_size is None
        else {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    )
    return DataLoader(**{name: getattr(loader, name) for name in _IN_COMMON}, **batches)
