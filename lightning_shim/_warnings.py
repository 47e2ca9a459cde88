"""Warnings and errors, each of which leads to the user's own file and line.

A fixed ``stacklevel`` would not do: the number of frames between the user's call and the place that warns differs
with and without wrapt's C extension. The frames are walked instead, until one is found that belongs to the user.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from lightning_shim._source import SourceFiles, code_of


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


FRAMEWORK_PACKAGES = frozenset(
    {
        "lightning_shim",
        "monkey_patch",
        "pytorch_lightning",
        "lightning",
        "lightning_fabric",
        "lightning_utilities",
        "torch",
        "torchmetrics",
        "determined",
        "wrapt",
        "contextlib",
        "functools",
        # Calls the classes that a LightningCLI script names.
        "jsonargparse",
    }
)
_RANK_VARIABLES = ("RANK", "HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")

_strict = False


def set_strict(strict: bool) -> None:
    """Chooses between warning and raising :class:`StrictModeError`.

    Args:
        strict: Whether to raise.
    """
    global _strict
    _strict = strict


def is_strict() -> bool:
    """Returns whether :class:`StrictModeError` is raised instead of warning."""
    return _strict


def is_rank_zero() -> bool:
    """Returns whether this process is the one that speaks, by the launchers' environment variables."""
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def _users_frame() -> FrameType:
    frame: FrameType | None = sys._getframe(1)
    last = sys._getframe(1)
    while frame is not None:
        last = frame
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in FRAMEWORK_PACKAGES:
            return frame
        frame = frame.f_back
    return last


def _definition(function: Callable[..., Any]) -> tuple[str, int] | None:
    code = code_of(function)
    return None if code is None else SourceFiles().definition(code)


def definition_location(definition: Any) -> str:
    """Says where the user defined something.

    Args:
        definition: A function, a method or a class of the user's.

    Returns:
        ``"file:line"``, or the name of the thing where Python knows no source of it.
    """
    if isinstance(definition, functools.partial):
        return definition_location(definition.func)
    found = _definition(definition) if not inspect.isclass(definition) else None
    if found is None and inspect.isclass(definition):
        try:
            found = inspect.getsourcefile(definition) or "?", inspect.getsourcelines(definition)[1]
        except (OSError, TypeError):
            found = None
    if found is None:
        return getattr(definition, "__qualname__", repr(definition))
    return f"{found[0]}:{found[1]}"


def caller_location() -> str:
    """Returns ``"file:line"`` of the user's line that is being executed."""
    frame = _users_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def _emit(
    message: str, category: type[LightningShimWarning], filename: str, line: int, namespace: dict[str, Any]
) -> None:
    if not is_rank_zero():
        return
    if _strict:
        raise StrictModeError(f"{filename}:{line}: {message}")
    # As in warnings.warn: "once per place" is remembered in the warned module's own registry.
    registry = namespace.setdefault("__warningregistry__", {})
    module = namespace.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, filename, line, module, registry)


def warn_at_caller(message: str, category: type[LightningShimWarning]) -> None:
    """Warns at the user's line that is being executed, on rank 0 only.

    Args:
        message: What happens instead, and what to do.
        category: The warning's class.

    Raises:
        StrictModeError: After ``patch(strict=True)``.
    """
    frame = _users_frame()
    _emit(message, category, frame.f_code.co_filename, frame.f_lineno, frame.f_globals)


def warn_at_place(filename: str, line: int, module: str, message: str, category: type[LightningShimWarning]) -> None:
    """Warns at a line of the user's that is not being executed, on rank 0 only.

    Args:
        filename: The file, as Python would name it in a traceback.
        line: The line.
        module: The name of the module that is in the file; Python's filters may select by it.
        message: What happens instead, and what to do.
        category: The warning's class.

    Raises:
        StrictModeError: After ``patch(strict=True)``.
    """
    loaded = sys.modules.get(module)
    _emit(message, category, filename, line, {"__name__": module} if loaded is None else vars(loaded))


def warn_at_definition(definition: Callable[..., Any], message: str, category: type[LightningShimWarning]) -> None:
    """Warns at the line of the user's ``def``, on rank 0 only.

    Args:
        definition: The user's function or method.
        message: What happens instead, and what to do.
        category: The warning's class.

    Raises:
        StrictModeError: After ``patch(strict=True)``.
    """
    found = _definition(definition)
    if found is None:
        warn_at_caller(message, category)
        return
    warn_at_place(*found, getattr(definition, "__module__", None) or "<unknown>", message, category)
