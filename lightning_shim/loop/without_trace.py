"""Random states around a validation that Lightning would not have had, and that is to leave no trace."""

from __future__ import annotations

from typing import Any, Final

from lightning_shim.data.source import DataSource
from lightning_shim.session.random_state import RandomState


class StatesBefore:
    """The random states that live in this process, from before a validation."""

    def __init__(self, training: DataSource, validation: DataSource) -> None:
        self._training: Final = training
        self._validation: Final = validation
        self._states: tuple[RandomState, list[Any], list[Any]] | None = None

    def remember(self) -> None:
        """Remembers the states until the validation has ended."""
        now = RandomState.capture()
        # Requesting the loaders may draw random numbers, and they may have generators of their own.
        self._validation.set_up()
        self._states = now, self._training.own_states(), self._validation.own_states()

    def restore(self) -> None:
        """Restores what :meth:`remember` has remembered, if it was called before the validation."""
        if self._states is not None:
            (now, own, own_of_validation), self._states = self._states, None
            self._training.restore_own_states(own)
            self._validation.restore_own_states(own_of_validation)
            now.restore()
