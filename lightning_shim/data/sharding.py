"""The samples of each process, as ``use_distributed_sampler`` and ``overfit_batches`` choose them in Lightning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import request_loaders, with_distributed_sampler


class SamplerError(Exception):
    """A loader cannot be rebuilt with another sampler."""


class SampleSharing:
    """Gives each process its share of a loader's samples, where ``use_distributed_sampler`` is set.

    A user's own sampler runs on every process, and its indices are then shared out. A batch sampler, or a subclass of
    DataLoader, is rebuilt around the share.
    """

    def __init__(self, session: Session) -> None:
        self._session: Final = session
        self._lightning: Final = session.lightning
        self._is_needed: Final = session.options.use_distributed_sampler and session.is_distributed
        self.overfits: Final = session.options.overfit_batches > 0

    def request(self, hook: Callable[[], Any]) -> Any:
        """Requests loaders from the user; each records the arguments with which it was built, so it can be rebuilt."""
        return request_loaders(self._lightning, hook) if self._is_needed or self.overfits else hook()

    def in_order(self, loader: Any) -> Any:
        """Rebuilds a loader to go through its dataset in order; one that has no dataset stays as it is."""
        if not hasattr(loader, "dataset"):
            return loader
        try:
            return self._lightning.update_dataloader(loader, SequentialSampler(loader.dataset))
        except (TypeError, ValueError, self._lightning.MisconfigurationException) as error:
            raise SamplerError(str(error).strip()) from error

    def share(self, loader: DataLoader[Any], is_training: bool) -> DataLoader[Any]:
        """Rebuilds a loader around this process's share; one without anything to share, or a share, stays as it is."""
        is_stream = isinstance(loader.dataset, IterableDataset)
        if not self._is_needed or is_stream or isinstance(loader.sampler, DistributedSampler):
            return loader
        try:
            return with_distributed_sampler(
                self._lightning,
                loader,
                is_training=is_training,
                overfits=self.overfits,
                num_replicas=self._session.world_size,
                rank=self._session.global_rank,
            )
        except (TypeError, self._lightning.MisconfigurationException) as error:
            raise SamplerError(str(error).strip()) from error
