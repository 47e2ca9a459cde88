"""Which samples a loader gives, as Lightning's ``use_distributed_sampler`` and ``overfit_batches`` have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import request_loaders, with_distributed_sampler


class SamplerError(Exception):
    """A loader cannot be made anew with another sampler."""


class SampleSharing:
    """Gives each process its part of a loader's samples.

    What has been chosen by a sampler of the user's is chosen on each process, and then shared out; a batch sampler, or
    a subclass of DataLoader, is made anew around the part.

    Args:
        session: The training. Without ``use_distributed_sampler`` loaders stay as the user made them.

    Attributes:
        overfits: Whether each epoch is to have the same samples.
    """

    def __init__(self, session: Session) -> None:
        self._session: Final = session
        self._lightning: Final = session.lightning
        self._is_needed: Final = session.options.use_distributed_sampler and session.world_size > 1
        self.overfits: Final = session.options.overfit_batches > 0

    def request(self, hook: Callable[[], Any]) -> Any:
        """Asks the user for loaders, and keeps with each what is needed to make it anew.

        Args:
            hook: Gives the loaders.

        Returns:
            What it gave.
        """
        return request_loaders(self._lightning, hook) if self._is_needed or self.overfits else hook()

    def in_order(self, loader: Any) -> Any:
        """Makes a loader that goes through its dataset from the beginning.

        Args:
            loader: The user's loader.

        Returns:
            The loader to iterate; the user's own if it has no dataset.

        Raises:
            SamplerError: If it cannot be made anew.
        """
        if not hasattr(loader, "dataset"):
            return loader
        try:
            return self._lightning.update_dataloader(loader, SequentialSampler(loader.dataset))
        except (TypeError, ValueError, self._lightning.MisconfigurationException) as error:
            raise SamplerError(str(error).strip()) from error

    def share(self, loader: DataLoader[Any], is_training: bool) -> DataLoader[Any]:
        """Makes a loader of this process's part.

        Args:
            loader: The user's loader.
            is_training: Whether the samples are shuffled where the user's loader does not say how they are chosen.

        Returns:
            The loader to iterate; the user's own if there is nothing to share, or it is shared already.

        Raises:
            SamplerError: If it cannot be made anew.
        """
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
