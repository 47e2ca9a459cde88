"""The number of batches of an epoch: Lightning's ends where its loaders do; Determined's have all the same length."""

from __future__ import annotations

from typing import Final

from lightning_shim.data.source import DataSource
from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.session.session import Session


class EpochLength:
    """The lengths of the epochs of one training.

    Attributes:
        is_fixed: Whether each epoch is filled up to the length of the first one, as Determined counts it.
        of_first: The number of batches of the first epoch's loaders; None if they have no length or were not requested.
        more: The number of batches that a callback has added to the current epoch.
    """

    def __init__(self, session: Session, source: DataSource) -> None:
        self._source: Final = source
        self._progress: Final = session.progress
        self._controller: Final = session.controller
        self.is_fixed: Final = session.script_trainer is None
        self.of_first: int | None = None
        self.more = 0

    @property
    def of_all(self) -> int | None:
        """The number of batches of each of Determined's epochs, or None if an epoch ends where the loaders do."""
        return self.of_first if self.is_fixed else None

    @property
    def max_batches(self) -> int | float:
        """The number of batches of the current loaders, or as callbacks have set it; infinite if it is unknown."""
        length = self._source.length if self._source.is_set_up else None
        return float("inf") if length is None else length + self.more

    @max_batches.setter
    def max_batches(self, batches: int | float) -> None:
        # StochasticWeightAveraging adds one for the epoch in which it computes statistics of batch normalisation, and
        # sets accumulate_grad_batches to the sum, so that no batch of that epoch is the end of an accumulation.
        more = 0 if batches == self.max_batches == float("inf") else batches - (self.max_batches - self.more)
        if not 0 <= more < float("inf"):
            raise ConfigurationError(
                f"{caller_location()}: trainer.fit_loop.max_batches = {batches!r}, and an epoch has {self.max_batches} "
                "batches. To train on fewer, pass limit_train_batches, or return -1 in on_train_batch_start."
            )
        self.more = int(more)

    def renew(self) -> None:
        """Takes the length of loaders that were requested for the epoch that starts."""
        # Determined asks for the length once. A shorter epoch is filled up; a longer one cannot be cut.
        first, other = self.of_first, self._source.length
        is_longer = first is not None and other is not None and other > first
        if self.is_fixed and (is_longer or (first is None) is not (other is None)):
            raise self._source.request.error(
                f"gave {'no length' if other is None else f'{other} batches'} in epoch {self._progress.current_epoch}, "
                f"and {'no length' if first is None else f'{first} batches'} in the first, which all of Determined's "
                "epochs have. Give the longest loader first, or limit the others by limit_train_batches."
            )
        self.more = 0

    @property
    def is_complete(self) -> bool:
        """Whether Determined is between two epochs; for loaders without a length, whether the last batch is done."""
        if self.of_all is None:
            return self._progress.is_last_batch or not self._progress.epoch_is_running
        return self._controller.batches_trained % self.of_all == 0

    def batches_and_epochs(self) -> tuple[int, int]:
        """Returns the numbers of batches and epochs trained so far, as Determined counts them."""
        progress, length = self._progress, self.of_all
        batches = progress.total_batch_idx + 1 if length is None else self.batches_of_epochs(length)
        return batches, progress.current_epoch

    def batches_of_epochs(self, length: int) -> int:
        """Returns the number of batches trained, had all epochs had this number of batches."""
        progress = self._progress
        return progress.current_epoch * length + (progress.batch_idx + 1 if progress.epoch_is_running else 0)
