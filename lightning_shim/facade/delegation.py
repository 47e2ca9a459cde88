"""Attributes as a table: by the name, the path to the value, or a function that returns it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

Facade = TypeVar("Facade", bound=type)


Answer = str | Callable[[Any], Any]
"""The path from an object to a value, as for :func:`operator.attrgetter`, or a function that returns the value."""


def delegates(answers: Mapping[str, Answer], settable: Collection[str] = ()) -> Callable[[Facade], Facade]:
    """Returns a class decorator that adds attributes whose values are elsewhere, some of which can be set as well."""

    def decorate(cls: Facade) -> Facade:
        for name, answer in answers.items():
            setattr(cls, name, property(getter(answer), setter(answer) if name in settable else None))
        return cls

    return decorate


def getter(answer: Answer) -> Callable[[Any], Any]:
    """Returns a function that returns the value."""
    return operator.attrgetter(answer) if isinstance(answer, str) else answer


def setter(path: Answer) -> Callable[[Any, Any], None]:
    """Returns a function that sets the attribute of an object to which a path leads."""
    assert isinstance(path, str)
    owner, _, name = path.rpartition(".")
    return lambda instance, value: setattr(operator.attrgetter(owner)(instance), name, value)
