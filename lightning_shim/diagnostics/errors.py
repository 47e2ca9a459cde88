"""Every warning and error class of this package."""

from __future__ import annotations


class LightningShimWarning(UserWarning):
    """Base of every warning of this package; Python's own filters select by it."""


class IgnoredMemberWarning(LightningShimWarning):
    """A member of a Lightning class has no effect under Determined."""


class RefusedMemberWarning(LightningShimWarning):
    """The user's code has a line that will be an error when it is reached, as a :class:`RefusedMemberError` or so."""


class DifferenceWarning(LightningShimWarning):
    """Something happens differently from what the script asked for; the message says how."""


class HyperparameterWarning(LightningShimWarning):
    """A hyperparameter reaches nobody, or two places disagree about one."""


class PatchWarning(LightningShimWarning):
    """Somebody else's patch lies on top of ours and is left in place."""


class LightningShimError(Exception):
    """Base of every error of this package."""


class StrictModeError(LightningShimError):
    """Raised instead of a warning after ``patch(strict=True)``."""


class ConfigurationError(LightningShimError):
    """The module, its data or its options cannot be trained as they are."""


class RefusedMemberError(LightningShimError, AttributeError):
    """A member was used whose absence would change the result.

    It is an ``AttributeError`` as well, so that ``hasattr`` answers as it would for a member that is not there.
    """


class MetricError(LightningShimError, ValueError):
    """A value was logged that cannot be logged, or not in this place."""


class CheckpointError(LightningShimError):
    """A checkpoint is missing, damaged, or not one that this trial can load."""


class PatchError(LightningShimError):
    """A patch could not be applied; whatever part of it had been applied is undone."""
