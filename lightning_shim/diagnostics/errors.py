"""The classes of all errors and warnings that this package raises."""

from __future__ import annotations

import functools
import sys
from typing import Any, Final

# Where pytorch_lightning and lightning.pytorch define MisconfigurationException.
_LIGHTNINGS_EXCEPTIONS: Final = ("lightning_fabric.utilities.exceptions", "lightning.fabric.utilities.exceptions")


class LightningShimWarning(UserWarning):
    """Base class of all warnings of this package, for Python's warning filters."""


class IgnoredMemberWarning(LightningShimWarning):
    """A member of a Lightning class has no effect on Determined."""


class RefusedMemberWarning(LightningShimWarning):
    """A line of the user's code will raise an error, such as :class:`RefusedMemberError`, when it is reached."""


class DifferenceWarning(LightningShimWarning):
    """Something differs from what the script asked for; the message says how."""


class OptimizersWarning(DifferenceWarning, RuntimeWarning):
    """A part of what ``configure_optimizers`` returned has no effect. Lightning gives a RuntimeWarning."""


class HyperparameterWarning(LightningShimWarning):
    """A hyperparameter has no effect, or two places give it different values."""


class PatchWarning(LightningShimWarning):
    """A patched member has been patched again by somebody else, so it cannot be restored."""


class LightningShimError(Exception):
    """Base class of all errors of this package."""


class _LightningsError(LightningShimError):
    """An error for which Lightning has a class, so that an ``except`` written for Lightning catches it as well.

    That class is MisconfigurationException unless another is given in ``also``.
    """

    def __new__(cls: Any, message: str, also: type[Exception] | None = None) -> Any:
        # Whoever names Lightning's class has imported it.
        modules = [sys.modules[name] for name in _LIGHTNINGS_EXCEPTIONS if name in sys.modules]
        classes: list[Any] = [each.MisconfigurationException for each in modules] if also is None else [also]
        return (also or Exception).__new__(_caught_as(cls, *classes), message)

    def __init__(self, message: str, also: type[Exception] | None = None) -> None:
        super().__init__(message)
        self._also = also

    def __reduce__(self) -> Any:
        return type(self).__bases__[0], (str(self), self._also)


@functools.cache
def _caught_as(cls: type[Any], *classes: Any) -> type[Any]:
    """Makes a class of errors that has the same name, and others of Lightning's or Python's as its bases."""
    added = [each for each in classes if not issubclass(cls, each)]
    return type(cls.__name__, (cls, *added), {"__module__": cls.__module__, "__doc__": cls.__doc__})


class StrictModeError(LightningShimError):
    """Raised instead of a warning after ``patch(strict=True)``."""


class ConfigurationError(_LightningsError):
    """The module, its data or its options cannot be used for training as they are."""


class RefusedMemberError(LightningShimError, AttributeError):
    """The user's code used a member that a trial lacks and without which the result would change.

    It is an ``AttributeError`` as well, so that ``hasattr`` returns False for such a member.
    """


class MetricError(_LightningsError, ValueError):
    """A value cannot be logged, or not from this hook."""


class CheckpointError(_LightningsError):
    """A checkpoint is missing or damaged, or this trial cannot load it."""


class PatchError(LightningShimError):
    """Patching failed; the patches that had been applied until then are undone."""
