"""The length of a training, and the periods of its validations and reports."""

from __future__ import annotations

from collections.abc import Container
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.upstream.determined.controller import DEFAULT_REPORTING_PERIOD, Controller


class Schedule:
    """The length and the periods of a trial.

    Determined's loop has them, but a module may ask before that loop exists. Until then the arguments answer; without
    them validations are those of each epoch, and reports are Determined's.
    """

    def __init__(
        self,
        controller: Controller,
        max_length: pytorch.TrainUnit | None,
        validation_period: pytorch.TrainUnit | None,
        reporting_period: pytorch.TrainUnit | None,
    ) -> None:
        verify_train_unit("max_length", max_length)
        verify_train_unit("validation_period", validation_period, may_be_schedule=True)
        verify_train_unit("reporting_period", reporting_period, may_be_schedule=True)
        self._controller: Final = controller
        self._max_length: Final = max_length
        self._validation_period: Final = validation_period
        self._reporting_period: Final = reporting_period or DEFAULT_REPORTING_PERIOD

    @property
    def batches_and_epochs(self) -> tuple[int | None, int | None]:
        """The length in batches and in epochs; one of the two is None."""
        # The user's own setting counts first, then the loop's length once that is known, then the announced one.
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
        """Changes the length of the training, as ``trainer.fit_loop.max_epochs = ...`` does in Lightning.

        It is refused if the trial's length is in batches, or if Determined is training already.
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
        """The period of validations."""
        return self._controller.validation_period or self._validation_period or pytorch.Epoch(1)

    @property
    def reporting_period(self) -> pytorch.TrainUnit:
        """The period of reports."""
        return self._controller.reporting_period or self._reporting_period


def verify_train_unit(name: str, unit: Any, *, required: bool = False, may_be_schedule: bool = False) -> None:
    """Refuses a length or period that Determined would silently misunderstand, or fail on later.

    A period may be a schedule: a list of counts, as in ``Batch([5, 30])``.
    """
    if unit is None and not required:
        return
    is_unit = isinstance(unit, (pytorch.Epoch, pytorch.Batch))
    given = f"{type(unit).__name__}({unit.value!r})" if is_unit else repr(unit)
    is_schedule = is_unit and not isinstance(unit.value, int) and isinstance(unit.value, Container)
    if not is_unit or (is_schedule and not may_be_schedule) or not (is_schedule or isinstance(unit.value, int)):
        problem = "is missing" if unit is None else f"is {given}"
        raise ConfigurationError(
            f"{caller_location()}: {name} {problem}. Give a number of epochs or batches, for example "
            f"{name}=determined.pytorch.Epoch(5) or determined.pytorch.Batch(1000)."
        )
    if not is_schedule and unit.value < 1:
        raise ConfigurationError(f"{caller_location()}: {name} is {given}; it has to be at least 1.")
