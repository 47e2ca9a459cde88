"""The script's own Trainer while a trial trains in its place: hooks and ``self.trainer`` have it.

A signal handler, a thread, a data set or a closure may hold it too. So for the time of ``fit`` its class has properties
for the attributes that the trial's facade answers or refuses. They stand before those of Lightning's Trainer, and
behind those of a class of the script's own that derives from it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any, Final

from lightning_shim.facade.delegation import setter
from lightning_shim.members.member import Support
from lightning_shim.members.query import find, members
from lightning_shim.patching.attachment import FACADE, Attached
from lightning_shim.upstream.namespaces import namespace_of

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
    """Has a Trainer show the facade's attributes, apart from some that stay its own."""
    # Lightning's own code needs the private parts that a trial does not have.
    shown = frozenset(
        row.name
        for row in members("Trainer")
        if row.name in vars(facade)
        or hasattr(type(facade), row.name)
        or (row.support is Support.REFUSED and not (row.is_removed or row.name.startswith("_")))
    )
    vars(trainer)[FACADE] = facade
    own_progress = {path: operator.attrgetter(path)(trainer) for path in _PROGRESS}
    shown_progress = {path: operator.attrgetter(path)(facade) for path in _PROGRESS}
    for path, counts in own_progress.items():
        vars(shown_progress[path])["_replaced"] = counts
    vars(trainer)[_OWN_PROGRESS] = own_progress
    _set_progress(trainer, shown_progress)
    own_class: Any = type(trainer)
    trainer.__class__ = _showing(own_class, namespace_of(trainer).module("trainer").Trainer, shown - own - {*METHODS})


def show_itself(trainer: Any) -> Any:
    """Ends :func:`show_facade`, and returns the facade; None if it was not called."""
    facade = vars(trainer).pop(FACADE, None)
    if facade is not None:
        trainer.__class__ = type(trainer).__bases__[0]
        _set_progress(trainer, vars(trainer).pop(_OWN_PROGRESS))
    return facade


def _set_progress(trainer: Any, progress: dict[str, Any]) -> None:
    for path, counts in progress.items():
        loop, _, name = path.rpartition(".")
        setattr(operator.attrgetter(loop)(trainer), name, counts)


def trials_method(name: str, wrapped: Callable[..., Any], trainer: Any) -> Callable[..., Any]:
    """Returns the trial's method, one of :data:`METHODS`, while it trains for a Trainer; otherwise Lightning's."""
    facade = vars(trainer).get(FACADE)
    return wrapped if facade is None else getattr(facade, name)


class _Showing(Attached):
    """Base class of the classes that :func:`show_facade` makes."""

    def __getattr__(self, name: str) -> Any:
        row = find("Trainer", name)
        if row is None or not row.is_removed:
            # Once more, for its error: a property of the script's own may have raised another one.
            return object.__getattribute__(self, name)
        return getattr(vars(self)[FACADE], name)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles the Trainer as it is without a trial."""
        state = {name: value for name, value in vars(self).items() if name not in (FACADE, _OWN_PROGRESS)}
        return object.__new__, (type(self).__bases__[0],), state


@functools.cache
def _showing(own_class: Any, lightnings: Any, names: frozenset[str]) -> type[Any]:
    bases: tuple[Any, ...] = (own_class, _Showing)
    attributes = {name: _attribute(name) for name in names}
    if own_class is not lightnings:
        bases, attributes = (own_class, _showing(lightnings, lightnings, names)), {}
    names_of_class = {"__module__": own_class.__module__, "__qualname__": own_class.__qualname__}
    return type(own_class.__name__, bases, {**names_of_class, **attributes})


def _attribute(name: str) -> property:
    # A path, since modules read such attributes in each step.
    path = f"{FACADE}.{name}"
    return property(operator.attrgetter(path), setter(path))
