"""The place that a stage's loaders come from: the arguments, the data module, or the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError, LightningShimWarning
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.diagnostics.warn import warn_at_caller, warn_at_definition
from lightning_shim.session.session import Session
from lightning_shim.upstream.lightning import is_overridden


class LoaderRequest:
    """Asks the user for the loaders of a stage, and says where they come from if they are wrong.

    What was passed comes first, then the data module, then the module, as in Lightning.

    Args:
        session: The training.
        stage: ``"train"`` or ``"val"``.
        given: The loaders that were passed, or None.

    Attributes:
        stage: The same.
    """

    def __init__(self, session: Session, stage: str, given: Any) -> None:
        self.stage: Final = stage
        self._given: Final = given
        self._hook: Callable[[], Any] | None = None
        lightning, name = session.lightning, f"{stage}_dataloader"
        owner, base = (
            (session.module, lightning.LightningModule)
            if session.datamodule is None
            else (session.datamodule, lightning.LightningDataModule)
        )
        if given is None and is_overridden(name, owner, base):
            self._hook = getattr(owner, name)

    @property
    def is_defined(self) -> bool:
        """Whether the user has given loaders for the stage."""
        return self._given is not None or self._hook is not None

    def __call__(self) -> Any:
        """Returns the loaders; None if there are none."""
        return self._given if self._hook is None else self._hook()

    def error(self, problem: str) -> ConfigurationError:
        """Makes an error that leads to where the loaders come from.

        Args:
            problem: What is wrong, as a sentence without its subject.
        """
        if self._hook is None:
            return ConfigurationError(f"{caller_location()}: {self.stage}_dataloaders {problem}")
        return ConfigurationError(f"{definition_location(self._hook)}: {self.stage}_dataloader {problem}")

    def warn(self, message: str, category: type[LightningShimWarning]) -> None:
        """Warns at the place where the loaders come from.

        Args:
            message: What is to be said.
            category: The warning's class.
        """
        if self._hook is None:
            warn_at_caller(message, category)
        else:
            warn_at_definition(self._hook, message, category)
