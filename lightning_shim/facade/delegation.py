"""Attributes whose values are elsewhere, as a table from the attribute's name to the path of its value."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

Facade = TypeVar("Facade", bound=type)


def delegates(paths: Mapping[str, str], settable: Collection[str] = ()) -> Callable[[Facade], Facade]:
    """Returns a class decorator that adds attributes whose values are elsewhere.

    Args:
        paths: The path from an instance to the value, as for :func:`operator.attrgetter`, by the attribute's name.
        settable: The names of those that can be set as well as read.
    """

    def decorate(cls: Facade) -> Facade:
        for name, path in paths.items():
            setattr(cls, name, property(operator.attrgetter(path), setter(path) if name in settable else None))
        return cls

    return decorate


def setter(path: str) -> Callable[[Any, Any], None]:
    """Returns a function that sets the attribute of an object to which a path leads."""
    owner, _, name = path.rpartition(".")
    return lambda instance, value: setattr(operator.attrgetter(owner)(instance), name, value)
