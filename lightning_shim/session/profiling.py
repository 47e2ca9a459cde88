"""Lightning's profiler in a script's Trainer: the trial runs it around the actions that Lightning runs it around."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


class Profiling:
    """A profiler, or none: then nothing is paid for it."""

    def __init__(self, profiler: Any) -> None:
        self._profiler: Final = profiler
        self.is_on: Final = profiler is not None

    def action(self, name: str) -> AbstractContextManager[Any]:
        """Returns a context that is measured."""
        context: AbstractContextManager[Any] = self._profiler.profile(name) if self.is_on else nullcontext()
        return context

    def measured(self, name: str, function: Function) -> Function:
        """Returns a function whose calls are measured, or the same one if there is no profiler."""
        if not self.is_on:
            return function

        @functools.wraps(function)
        def measured(*args: Any, **kwargs: Any) -> Any:
            with self._profiler.profile(name):
                return function(*args, **kwargs)

        return measured  # type: ignore[return-value]  # it has the same signature
