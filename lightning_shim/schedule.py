"""How long Determined trains, and how often it validates and reports: what it was told, or what its loop says."""

from __future__ import annotations

from typing import Any, Final

from determined import pytorch

from lightning_shim._determined import DEFAULT_REPORTING_PERIOD, Controller
from lightning_shim._warnings import ConfigurationError, caller_location
from lightning_shim.verification import verify_train_unit


class Schedule:
    """The length and the periods of a trial, as its module may ask for them.

    Determined's loop has them, but exists only when training starts; a module may ask before.

    Args:
        controller: Determined's loop.
        max_length: How long it will train; None if that is not known yet.
        validation_period: How often it will validate; None for after each epoch.
        reporting_period: How often it will report; None for Determined's default.

    Raises:
        ConfigurationError: If one of them makes no sense.
    """

    def __init__(
        self,
        controller: Controller,
        max_length: pytorch.TrainUnit | None,
        validation_period: pytorch.TrainUnit | None,
        reporting_period: pytorch.TrainUnit | None,
    ) -> None:
        verify_train_unit("max_length", max_length)
        verify_train_unit("validation_period", validation_period)
        verify_train_unit("reporting_period", reporting_period)
        self._controller: Final = controller
        self._max_length: Final = max_length
        self._validation_period: Final = validation_period
        self._reporting_period: Final = reporting_period or DEFAULT_REPORTING_PERIOD

    @property
    def batches_and_epochs(self) -> tuple[int | None, int | None]:
        """The length in batches and in epochs; one of the two is None.

        Raises:
            ConfigurationError: If it is not known yet.
        """
        if self._controller.max_epochs is not None:
            return None, self._controller.max_epochs
        length = self._controller.max_length or self._max_length
        if length is None or not isinstance(length.value, int):
            raise ConfigurationError(
                f"{caller_location()}: how long Determined will train is not known yet. Pass it as "
                "LightningTrial(context, module, max_length=determined.pytorch.Epoch(n)) as well."
            )
        return (None, length.value) if isinstance(length, pytorch.Epoch) else (length.value, None)

    def set_max_epochs(self, epochs: Any) -> None:
        """Changes the length, as ``trainer.fit_loop.max_epochs = ...`` does; Determined's loop then has it as well.

        Args:
            epochs: How many epochs to train for.

        Raises:
            ConfigurationError: If the length is given in batches, is no length, or Determined is training already.
        """
        where = f"{caller_location()}: trainer.fit_loop.max_epochs = {epochs!r}"
        if self.batches_and_epochs[1] is None:
            raise ConfigurationError(
                f"{where}: the length of this trial is in batches. Give it in epochs to change it."
            )
        if self._controller.is_running:
            raise ConfigurationError(
                f"{where}: Determined is training already, and its length is fixed. Set it in on_fit_start or "
                "on_train_start, or set trainer.should_stop = True to end earlier."
            )
        verify_train_unit("trainer.fit_loop.max_epochs", pytorch.Epoch(epochs))
        self._controller.max_epochs = epochs

    @property
    def validation_period(self) -> pytorch.TrainUnit:
        """How often Determined validates."""
        return self._controller.validation_period or self._validation_period or pytorch.Epoch(1)

    @property
    def reporting_period(self) -> pytorch.TrainUnit:
        """How often Determined reports."""
        return self._controller.reporting_period or self._reporting_period
