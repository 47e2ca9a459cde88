"""Warnings that point at the user's own file and line."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

from lightning_shim.diagnostics.errors import DifferenceWarning, LightningShimWarning, StrictModeError
from lightning_shim.diagnostics.locations import users_frame
from lightning_shim.diagnostics.source_files import definition_of, under_wrappers

_RANK_VARIABLES = ("RANK", "HOROVOD_RANK", "OMPI_COMM_WORLD_RANK")

_strict = False


def set_strict(strict: bool) -> None:
    """Chooses between warning and raising :class:`StrictModeError`."""
    global _strict
    _strict = strict


def is_strict() -> bool:
    """Whether :class:`StrictModeError` is raised in place of a warning."""
    return _strict


def is_rank_zero() -> bool:
    """Whether this process prints and warns, according to the launchers' environment variables.

    The variables are there before any process group is, and reading them imports nothing.
    """
    return all(os.environ.get(name, "0") == "0" for name in _RANK_VARIABLES)


def _emit(
    message: str, category: type[LightningShimWarning], filename: str, line: int, namespace: dict[str, Any]
) -> None:
    if not is_rank_zero():
        return
    if _strict:
        raise StrictModeError(f"{filename}:{line}: {message}")
    # As in warnings.warn: the warned module's own registry remembers that a place has been warned about.
    registry = namespace.setdefault("__warningregistry__", {})
    module = namespace.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, filename, line, module, registry)


def warn_at_caller(message: str, category: type[LightningShimWarning] = DifferenceWarning) -> None:
    """Warns at the user's line that is running, on rank 0 only; after ``patch(strict=True)`` it raises instead."""
    frame = users_frame()
    _emit(message, category, frame.f_code.co_filename, frame.f_lineno, frame.f_globals)


def warn_at_place(
    filename: str, line: int, module: str, message: str, category: type[LightningShimWarning] = DifferenceWarning
) -> None:
    """Warns like :func:`warn_at_caller` at a given line of the user's, whose module Python's filters may name."""
    loaded = sys.modules.get(module)
    _emit(message, category, filename, line, {"__name__": module} if loaded is None else vars(loaded))


def warn_at_definition(
    definition: Callable[..., Any], message: str, category: type[LightningShimWarning] = DifferenceWarning
) -> None:
    """Warns like :func:`warn_at_caller` at the line of the user's ``def``."""
    function = under_wrappers(definition)
    if function is None:
        warn_at_caller(message, category)
    else:
        module = getattr(definition, "__module__", None) or "<unknown>"
        warn_at_place(*definition_of(function.__code__), module, message, category)
