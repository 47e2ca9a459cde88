"""The script's own Trainer while a trial trains in its place: it reads and sets what ``self.trainer`` does.

A signal handler, a thread, a data set or a closure may hold it. So for the time of ``fit`` its class is a subclass, in
which the attributes that the trial's facade answers are properties.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from lightning_shim.members.query import find

_FACADE: Final = "_lightning_shim_facade"
"""The entry of a Trainer's ``__dict__`` with the facade."""


def show_facade(trainer: Any, facade: Any, own: frozenset[str]) -> None:
    """Has a Trainer show the facade's attributes."""
    names = {*dir(type(facade)), *vars(facade)} - own
    shown = frozenset(name for name in names if not name.startswith("_") and find("Trainer", name) is not None)
    vars(trainer)[_FACADE] = facade
    own_class: Any = type(trainer)
    trainer.__class__ = _showing(own_class, shown)


def show_itself(trainer: Any) -> None:
    """Ends :func:`show_facade`, if it was called."""
    if vars(trainer).pop(_FACADE, None) is not None:
        trainer.__class__ = type(trainer).__base__


@functools.cache
def _showing(trainer_class: Any, names: frozenset[str]) -> type[Any]:
    own = {"__module__": trainer_class.__module__, "__qualname__": trainer_class.__qualname__}
    return type(trainer_class.__name__, (trainer_class,), {**own, **{name: _attribute(name) for name in names}})


def _attribute(name: str) -> property:
    def get(trainer: Any) -> Any:
        return getattr(vars(trainer)[_FACADE], name)

    def put(trainer: Any, value: Any) -> None:
        setattr(vars(trainer)[_FACADE], name, value)

    return property(get, put)
