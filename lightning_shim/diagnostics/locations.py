"""The user's file and line that a message points at.

A fixed ``stacklevel`` would not do: the number of frames between the user's call and the warning differs with and
without wrapt's C extension. The frames are walked instead, up to the first that runs the user's code.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from types import FrameType
from typing import Any

from lightning_shim.diagnostics.source_files import definition_of, under_wrappers

# Packages whose frames may lie between the user's line and the place that warns, or that define what the user's classes
# inherit.
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
        # LightningCLI has it call the user's classes.
        "jsonargparse",
    }
)

# It calls the user's function, and their classes, but a script needs it installed besides the packages above.
_CALLING_PACKAGES = FRAMEWORK_PACKAGES | {"hydra"}


def users_frame() -> FrameType:
    """Returns the innermost frame that runs the user's code, or the outermost frame if none does."""
    frame: FrameType | None = sys._getframe(1)
    last = sys._getframe(1)
    while frame is not None:
        last = frame
        if _package_of(frame) not in _CALLING_PACKAGES:
            return frame
        frame = frame.f_back
    return last


def _package_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def definition_location(definition: Any) -> str:
    """Returns ``"file:line"`` of what the user defined, or its name if it has no source."""
    if isinstance(definition, functools.partial):
        return definition_location(definition.func)
    if inspect.isclass(definition):
        with contextlib.suppress(OSError, TypeError):
            return f"{inspect.getsourcefile(definition) or '?'}:{inspect.getsourcelines(definition)[1]}"
    elif (function := under_wrappers(definition)) is not None:
        file, line = definition_of(function.__code__)
        return f"{file}:{line}"
    return getattr(definition, "__qualname__", repr(definition))


def caller_name() -> str:
    """Says who calls: ``"file:line"`` if it is the user's code, otherwise the class of Lightning's that does."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _package_of(frame) == "lightning_shim":
        frame = frame.f_back
    if frame is None or _package_of(frame) not in FRAMEWORK_PACKAGES or "self" not in frame.f_locals:
        return caller_location()
    return type(frame.f_locals["self"]).__name__


def caller_location() -> str:
    """Returns ``"file:line"`` of the user's line that is running."""
    frame = users_frame()
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
