"""The hyperparameters of a search, which override the arguments that a script passes to its modules."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Final

import wrapt

from lightning_shim.diagnostics.lines import say
from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES, caller_location
from lightning_shim.patching.registry import PatchRegistry
from lightning_shim.session.hyperparameters import (
    DETERMINED_HYPERPARAMETERS,
    NOTHING,
    Replacement,
    nested,
    replaced,
    untaken,
)

_is_making: ContextVar[bool] = ContextVar("lightning_shim_is_making", default=False)
"""Whether a module is being built. Modules that it builds in turn get only the arguments that it passes to them."""

_taken: Final[set[str]] = set()
"""The names of the hyperparameters that a module, LightningCLI or hydra has been given."""


class Constructor(wrapt.CallableObjectProxy):  # type: ignore[type-arg]  # not at run time
    """Replaces ``__init__`` in a class, and passes the trial's hyperparameters by name to a call from the script.

    The class itself still gives the user's own function, and so does ``super().__init__`` in a subclass. Lightning's
    ``save_hyperparameters`` walks the frames of the constructors, which have to follow each other without a wrapper in
    between. To code that inspects the class, such as LightningCLI, this object looks like a function as well.
    """

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        own = self.__wrapped__.__get__(instance, owner)
        if instance is None or _is_making.get() or not searched_hyperparameters():
            return own
        return functools.partial(_make, instance, own)


def _make(instance: Any, constructor: Callable[..., None], *args: Any, **kwargs: Any) -> None:
    """Calls a constructor with the hyperparameters that it has parameters for, and prints what they replace."""
    from lightning_shim.upstream.lightning import given_hyperparameters

    signature = inspect.signature(constructor)
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError:
        # Python's own error for the call is the one that the user knows.
        constructor(*args, **kwargs)
        return
    overriding = {name: hparams for name, hparams in searched_hyperparameters().items() if _takes(bound, name)}
    for name, hparams in overriding.items():
        arguments = _variable_keywords(bound) if name in _variable_keywords(bound) else bound.arguments
        parameter = signature.parameters.get(name)
        present = arguments.get(name, NOTHING if parameter is None else parameter.default)
        arguments[name], replacements = replaced(present, hparams, name)
        take(type(instance).__qualname__, replacements)

    def override(given: dict[str, Any]) -> dict[str, Any]:
        return given | {
            name: replaced(given.get(name, NOTHING), hparams, name)[0] for name, hparams in overriding.items()
        }

    token = _is_making.set(True)
    try:
        with given_hyperparameters(instance, override):
            constructor(*bound.args, **bound.kwargs)
    finally:
        _is_making.reset(token)


def _variable_keywords(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Returns the arguments in a call that ``**kwargs`` takes."""
    for parameter in bound.signature.parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            given: dict[str, Any] = bound.arguments.get(parameter.name, {})
            return given
    return {}


def _takes(bound: inspect.BoundArguments, name: str) -> bool:
    parameter = bound.signature.parameters.get(name)
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return name in _variable_keywords(bound) or (parameter is not None and parameter.kind not in variable)


def take(owner: str, replacements: Sequence[Replacement]) -> None:
    """Remembers that hyperparameters have an effect, and prints those that make a difference."""
    _taken.update(each.name for each in replacements)
    for each in replacements:
        if repr(each.instead) != repr(each.value):
            _say_once(f"{caller_location()}: {owner} gets the trial's {each}.")


# Hydra composes a configuration twice, and a script may make many modules.
_say_once: Final = functools.cache(say)


@functools.cache
def searched_hyperparameters() -> dict[str, Any]:
    """Returns the hyperparameters of the trial by name, nested; off-cluster there are none."""
    from lightning_shim.upstream.determined.context import trial_info

    info = trial_info()
    return {} if info is None else nested(info.trial.hparams)


def untaken_hyperparameters() -> list[str]:
    """Returns the names of the hyperparameters that nothing in the script has been given."""
    return untaken(searched_hyperparameters(), _taken | DETERMINED_HYPERPARAMETERS)


def is_users_constructor(owner: type) -> bool:
    """Whether a class is the user's, and defines a constructor itself."""
    return inspect.isfunction(vars(owner).get("__init__")) and (
        owner.__module__.partition(".")[0] not in FRAMEWORK_PACKAGES
    )


def patch_constructors(registry: PatchRegistry, owner: type[Any]) -> None:
    """Patches the constructors of all subclasses of a Lightning class that the user has defined or will define."""

    def init_subclass(cls: type[Any], /, **kwargs: Any) -> None:
        super(owner, cls).__init_subclass__(**kwargs)
        patch_constructor(cls)

    def patch_constructor(subclass: type[Any]) -> None:
        if is_users_constructor(subclass):
            registry.wrap(subclass, "__init__", Constructor)

    # Python calls it for each class that the script defines later.
    registry.wrap(owner, "__init_subclass__", lambda present: classmethod(init_subclass))
    for subclass in _subclasses(owner):
        patch_constructor(subclass)


def _subclasses(owner: type[Any]) -> Iterator[type[Any]]:
    for subclass in owner.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
