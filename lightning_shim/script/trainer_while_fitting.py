"""The script's own Trainer while a trial trains in its place: it reads and sets what ``self.trainer`` does.

A signal handler, a thread, a data set or a closure may hold it. So for the time of ``fit`` its class has properties for
the attributes that the trial's facade answers. They stand before those of Lightning's Trainer, and behind those of a
class of the script's own that derives from it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Final

from lightning_shim.members.query import find
from lightning_shim.upstream.namespaces import namespace_of

_FACADE: Final = "_lightning_shim_facade"
"""The entry of a Trainer's ``__dict__`` with the facade."""

_PROGRESS: Final = (
    "fit_loop.epoch_progress",
    "fit_loop.epoch_loop.batch_progress",
    "fit_loop.epoch_loop.val_loop.batch_progress",
)
"""The counts of a Trainer's loops, which are the facade's as well."""

_OWN_PROGRESS: Final = "_lightning_shim_progress"
"""The entry of a Trainer's ``__dict__`` with its own counts, by their paths."""

METHODS: Final = ("print", "save_checkpoint")
"""The methods of Trainer that a trial has of its own. A script may override them, and reach these by ``super()``."""


def show_facade(trainer: Any, facade: Any, own: frozenset[str]) -> None:
    """Has a Trainer show the facade's attributes."""
    names = {*dir(type(facade)), *vars(facade)} - own - {*METHODS}
    shown = frozenset(name for name in names if is_attribute(name))
    vars(trainer)[_FACADE] = facade
    vars(trainer)[_OWN_PROGRESS] = {path: operator.attrgetter(path)(trainer) for path in _PROGRESS}
    _set_progress(trainer, {path: operator.attrgetter(path)(facade) for path in _PROGRESS})
    own_class: Any = type(trainer)
    trainer.__class__ = _showing(own_class, namespace_of(trainer).module("trainer").Trainer, shown)


def is_attribute(name: str) -> bool:
    """Whether a public attribute is one of Lightning's Trainer, rather than one that the script has given it."""
    return not name.startswith("_") and find("Trainer", name) is not None


def show_itself(trainer: Any) -> None:
    """Ends :func:`show_facade`, if it was called."""
    if vars(trainer).pop(_FACADE, None) is not None:
        trainer.__class__ = type(trainer).__bases__[0]
        _set_progress(trainer, vars(trainer).pop(_OWN_PROGRESS))


def _set_progress(trainer: Any, progress: dict[str, Any]) -> None:
    for path, counts in progress.items():
        loop, _, name = path.rpartition(".")
        setattr(operator.attrgetter(loop)(trainer), name, counts)


def trials_method(name: str, wrapped: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    """Returns the trial's method of a name while one trains in a Trainer's place, otherwise Lightning's.

    Args:
        name: One of :data:`METHODS`.
        wrapped: Lightning's method.
        trainer: The script's Trainer.
    """
    facade = vars(trainer).get(_FACADE)
    return wrapped if facade is None else getattr(super(type(facade), facade), name)


@functools.cache
def _showing(own_class: Any, lightnings: Any, names: frozenset[str]) -> type[Any]:
    attributes = {name: _attribute(name) for name in names}
    bases: tuple[Any, ...] = (own_class,)
    if own_class is not lightnings:
        bases, attributes = (own_class, _showing(lightnings, lightnings, names)), {}
    names_of_class = {"__module__": own_class.__module__, "__qualname__": own_class.__qualname__}
    return type(own_class.__name__, bases, {**names_of_class, **attributes})


def _attribute(name: str) -> property:
    def get(trainer: Any) -> Any:
        return getattr(vars(trainer)[_FACADE], name)

    def put(trainer: Any, value: Any) -> None:
        setattr(vars(trainer)[_FACADE], name, value)

    return property(get, put)
