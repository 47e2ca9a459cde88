"""Builds modules and data modules from a trial's hyperparameters, which are matched by parameter name.

A nested hyperparameter such as ``optim.lr`` replaces that part of the argument ``optim``, and leaves its other parts.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import inspect
import types
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping
from typing import Any, Final

from lightning_shim.diagnostics.errors import ConfigurationError, HyperparameterWarning
from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES, definition_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.upstream.lightning import read_write

NOTHING: Final = inspect.Parameter.empty
"""The value of an argument that nobody has passed, and that has no default."""

GLOBAL_BATCH_SIZE: Final = "global_batch_size"
"""Determined's name for the number of samples in the batches of all slots together."""

DETERMINED_HYPERPARAMETERS: Final = frozenset({GLOBAL_BATCH_SIZE})
"""Hyperparameters that Determined reads itself, so that no constructor needs to take them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Replacement:
    """A value that a hyperparameter replaces."""

    name: str  # the hyperparameter's name, such as `optim.lr`
    value: Any
    instead: Any  # the value that was there, or `NOTHING`

    def __str__(self) -> str:
        instead = "" if self.instead is NOTHING else f" instead of {self.instead!r}"
        return f"{self.name}={self.value!r}{instead}"


def nested(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Nests hyperparameters with dotted names, such as ``optim.lr``, as Determined nests what an experiment nests."""
    tree = {name: value for name, value in hparams.items() if "." not in name}
    for name in [each for each in hparams if "." in each]:
        *parents, last = name.split(".")
        inner = tree
        for parent in parents:
            present = inner.get(parent)
            # A copy, since the user's own dictionary stays as it is.
            inner[parent] = dict(present) if isinstance(present, Mapping) else {}
            inner = inner[parent]
        inner[last] = hparams[name]
    return tree


def leaves(hparams: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the names and values of hyperparameters, those of nested ones joined by dots."""
    if isinstance(hparams, Mapping) and (hparams or not name):
        for key, value in hparams.items():
            yield from leaves(value, f"{name}.{key}" if name else key)
    else:
        yield name, hparams


def untaken(hparams: Mapping[str, Any], taken: Collection[str]) -> list[str]:
    """Returns the names of nested hyperparameters that nothing has taken; a taken one stands for all in it."""
    return sorted(name for name, _ in leaves(hparams) if not any(f"{name}.".startswith(f"{each}.") for each in taken))


def replaced(present: Any, hparams: Any, name: str) -> tuple[Any, list[Replacement]]:
    """Puts hyperparameters in the place of a value, or of parts of it, and returns it with what has been replaced.

    Dictionaries, configurations of OmegaConf's, data classes and namespaces are copied, with nested hyperparameters as
    entries or fields. A dictionary may get a new entry, since code may ask for one that is not there.
    """
    names = _names_of_parts(present) if isinstance(hparams, Mapping) else None
    if names is None:
        return hparams, [Replacement(name, hparams, present)]
    changed: dict[str, Any] = {}
    replacements: list[Replacement] = []
    for key, value in hparams.items():
        if key in names or isinstance(present, dict):
            part = _part(present, key) if key in names else NOTHING
            changed[key], of_part = replaced(part, value, f"{name}.{key}")
            replacements += of_part
    return _with_parts(present, changed) if replacements else present, replacements


def _names_of_parts(value: Any) -> list[str] | None:
    """Returns the keys or fields of a value, or None if it has nothing that a hyperparameter could replace."""
    if isinstance(value, MutableMapping):
        return list(value)
    if _is_data(value):
        return [field.name for field in dataclasses.fields(value) if field.init]
    return list(vars(value)) if isinstance(value, (argparse.Namespace, types.SimpleNamespace)) else None


def _part(value: Any, name: str) -> Any:
    # A value that OmegaConf still waits for ("???") has a key, and is None.
    return value.get(name) if isinstance(value, MutableMapping) else getattr(value, name)


def _is_data(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, (type, MutableMapping))


def _with_parts(value: Any, parts: dict[str, Any]) -> Any:
    """Returns a copy of a value with other entries or fields."""
    if _is_data(value):
        return dataclasses.replace(value, **parts)
    copied = copy.copy(value)
    with read_write(copied):
        (copied if isinstance(copied, MutableMapping) else vars(copied)).update(parts)
    return copied


class HyperparameterBuilder:
    """Calls classes and functions with the hyperparameters that they have parameters for."""

    def __init__(self, hparams: Mapping[str, Any]) -> None:
        self._hparams: Final = nested(hparams)
        self._taken: set[str] = set(DETERMINED_HYPERPARAMETERS)
        self._asked: list[str] = []

    def build(self, target: Callable[..., Any]) -> Any:
        """Calls a class or function; one that takes ``**kwargs`` gets all hyperparameters."""
        signature = _signature(target)
        arguments: dict[str, Any] = {}
        missing = []
        for name, parameter in signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments[name] = {key: value for key, value in self._hparams.items() if key not in arguments}
                self._taken |= self._hparams.keys()
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                if name in self._hparams:
                    arguments[name], replacements = replaced(parameter.default, self._hparams[name], name)
                    self._taken |= {each.name for each in replacements}
                elif parameter.default is inspect.Parameter.empty:
                    missing.append(name)
        name = getattr(target, "__qualname__", repr(target))
        if missing:
            raise ConfigurationError(
                f"{definition_location(target)}: {name} needs {', '.join(missing)}, but there is no such "
                f"hyperparameter. There are: {', '.join(sorted(self._hparams)) or 'none'}. Add it to `hyperparameters` "
                "of the experiment (off-cluster: fit(hparams=...)), or give the parameter a default."
            )
        self._asked.append(name)
        # Unlike target(**arguments), this also passes parameters that are positional only.
        bound = inspect.BoundArguments(signature, arguments)
        return target(*bound.args, **bound.kwargs)

    def warn_about_unused(self) -> None:
        """Warns about hyperparameters that nothing was called with."""
        unused = untaken(self._hparams, self._taken)
        if unused:
            reason = (
                f"no parameter of {' or '.join(self._asked)} has that name"
                if self._asked
                else "module and data module were passed as objects; pass classes, to have them built"
            )
            warn_at_caller(f"The hyperparameters {', '.join(unused)} have no effect: {reason}.", HyperparameterWarning)


def _signature(target: Callable[..., Any]) -> inspect.Signature:
    """Returns the parameters that the user has defined; none for a class without a constructor of its own."""
    # LightningModule.__init__ takes *args and **kwargs, which would take every hyperparameter and then drop it.
    constructor = getattr(target, "__init__", None) if isinstance(target, type) else None
    if constructor is not None and constructor.__module__.partition(".")[0] in FRAMEWORK_PACKAGES:
        return inspect.Signature()
    return inspect.signature(target)
