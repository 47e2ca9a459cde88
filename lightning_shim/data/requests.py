"""The source of a stage's loaders: the arguments, the data module, or the module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError, DifferenceWarning, LightningShimWarning
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.diagnostics.warn import warn_at_caller, warn_at_definition
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.session.session import Session
from lightning_shim.upstream.determined.context import replaced
from lightning_shim.upstream.lightning import is_overridden


class LoaderRequest:
    """Requests a stage's loaders from the user, and points errors and warnings at their source.

    Arguments take precedence over the data module, and the data module over the module, as in Lightning.
    """

    def __init__(self, session: Session, stage: str, given: Any) -> None:
        self.stage: Final = stage
        self._given: Final = given
        self._module: Final = session.module
        self._hook: Callable[[], Any] | None = None
        lightning, name = session.lightning, f"{stage}_dataloader"
        owner, base = (
            (session.module, lightning.LightningModule)
            if session.datamodule is None
            else (session.datamodule, lightning.LightningDataModule)
        )
        if given is None and is_overridden(name, owner, base):
            action = f"[{base.__name__}]{type(owner).__name__}.{name}"
            self._hook = session.profiling.measured(action, getattr(owner, name))
        # In words that can follow "which was".
        self.origin: Final = (
            f"passed to `Trainer.fit({stage}_dataloaders=...)`"
            if self._hook is None
            else f"returned from `{type(owner).__name__}.{name}()`"
        )

    @property
    def is_defined(self) -> bool:
        """Whether the stage has loaders."""
        return self._given is not None or self._hook is not None

    @property
    def is_module(self) -> bool:
        """Whether a hook of the module or of its data module would return them, rather than an argument."""
        return self._given is None

    def __call__(self) -> Any:
        """Returns the loaders, or None."""
        if self._hook is None:
            return self._given
        # So that ``self.log`` says where it is called.
        with replaced(self._module, **{CURRENT_FX_ATTRIBUTE: f"{self.stage}_dataloader"}):
            return self._hook()

    def error(self, problem: str, also: type[Exception] | None = None) -> ConfigurationError:
        """Returns an error that points at the loaders' source, which is the subject of the problem's sentence."""
        if self._hook is None:
            return ConfigurationError(f"{caller_location()}: {self.stage}_dataloaders {problem}", also)
        return ConfigurationError(f"{definition_location(self._hook)}: {self.stage}_dataloader {problem}", also)

    def warn(self, message: str, category: type[LightningShimWarning] = DifferenceWarning) -> None:
        """Warns at the source of the loaders."""
        if self._hook is None:
            warn_at_caller(message, category)
        else:
            warn_at_definition(self._hook, message, category)
