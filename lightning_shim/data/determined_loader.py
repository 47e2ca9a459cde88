"""Determined's own ``DataLoader``: it is a recipe for PyTorch's, and is followed."""

from __future__ import annotations

from typing import Any

from determined import pytorch
from torch.utils.data import DataLoader


def as_torch_loader(loader: Any) -> Any:
    """Makes PyTorch's loader of the arguments that a ``determined.pytorch.DataLoader`` was made with.

    Its own ``get_data_loader`` would repeat, share and skip batches, which a trial does for every loader alike.

    Args:
        loader: What the user has given.

    Returns:
        The loader to iterate; anything that is not Determined's is returned itself.
    """
    if not isinstance(loader, pytorch.DataLoader):
        return loader
    batches = (
        {"batch_sampler": loader.batch_sampler}
        if loader.batch_size is None
        else {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    )
    return DataLoader(
        loader.dataset,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor,
        persistent_workers=loader.persistent_workers,
        **batches,
    )
