"""The classes of all errors and warnings that this package raises."""

from __future__ import annotations


class LightningShimWarning(UserWarning):
    """Base class of all warnings of this package, for Python's warning filters."""


class IgnoredMemberWarning(LightningShimWarning):
    """A member of a Lightning class has no effect on Determined."""


class RefusedMemberWarning(LightningShimWarning):
    """A line of the user's code will raise an error, such as :class:`RefusedMemberError`, when it is reached."""


class DifferenceWarning(LightningShimWarning):
    """Something differs from what the script asked for; the message says how."""


class HyperparameterWarning(LightningShimWarning):
    """A hyperparameter has no effect, or two places give it different values."""


class PatchWarning(LightningShimWarning):
    """A patched member has been patched again by somebody else, so it cannot be restored."""


class LightningShimError(Exception):
    """Base class of all errors of this package."""


class StrictModeError(LightningShimError):
    """Raised instead of a warning after ``patch(strict=True)``."""


class ConfigurationError(LightningShimError):
    """The module, its data or its options cannot be used for training as they are."""


class IntervalError(ConfigurationError, ValueError):
    """A period of validations that would never end. Lightning raises ValueError too."""


class RefusedMemberError(LightningShimError, AttributeError):
    """The user's code used a member that a trial lacks and without which the result would change.

    It is an ``AttributeError`` as well, so that ``hasattr`` returns False for such a member.
    """


class MetricError(LightningShimError, ValueError):
    """A value cannot be logged, or not from this hook."""


class CheckpointError(LightningShimError):
    """A checkpoint is missing or damaged, or this trial cannot load it."""


class PatchError(LightningShimError):
    """Patching failed; the patches that had been applied until then are undone."""
