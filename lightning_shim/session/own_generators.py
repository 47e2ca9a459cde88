"""Random generators that objects hold in attributes: a loader's, a sampler's, a dataset's or one of its transforms'."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

_DEPTH: Final = 3
_OBJECTS: Final = 200
_ELEMENTS: Final = 16
"""How far generators are looked for: a dataset may hold any number of objects, but its generators lie close to it."""


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the state of one kind of generator is read and set, and how a generator is made for a state."""

    get: Callable[[Any], Any]
    set: Callable[[Any, Any], Any]
    make: Callable[[Any], Any]


def _set_bit_generator(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_KINDS: Final[dict[type, _Kind]] = {
    torch.Generator: _Kind(torch.Generator.get_state, torch.Generator.set_state, lambda _: torch.Generator()),
    random.Random: _Kind(random.Random.getstate, random.Random.setstate, lambda _: random.Random()),
    np.random.RandomState: _Kind(
        np.random.RandomState.get_state, np.random.RandomState.set_state, lambda _: np.random.RandomState()
    ),
    np.random.Generator: _Kind(
        lambda generator: generator.bit_generator.state,
        _set_bit_generator,
        lambda state: np.random.Generator(getattr(np.random, state["bit_generator"])()),
    ),
}

States = dict[str, tuple[str, Any]]
"""By the path to the attribute, the name of the generator's class and its state."""


def is_generator(value: Any) -> bool:
    """Tells whether an object is a random generator whose state can be captured."""
    return type(value) in _KINDS


def state_of_generator(generator: Any) -> Any:
    """Returns the state of a random generator that :func:`is_generator` is true of."""
    return _KINDS[type(generator)].get(generator)


def set_state_of_generator(generator: Any, state: Any) -> None:
    """Sets the state of a random generator, as :func:`state_of_generator` has returned it."""
    _KINDS[type(generator)].set(generator, state)


class OwnGenerators:
    """Finds the generators of some objects, and of the objects that they hold.

    Args:
        roots: The objects by name.
    """

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self._attributes: Final[dict[str, dict[str, Any]]] = {}
        self._found: Final = {path: root for path, root in roots.items() if type(root) in _KINDS}
        seen: set[int] = set()
        for path, root in roots.items():
            self._look_into(path, root, _DEPTH, seen)

    def _look_into(self, path: str, value: Any, depth: int, seen: set[int]) -> None:
        if id(value) in seen or len(seen) >= _OBJECTS:
            return
        seen.add(id(value))
        if isinstance(value, (list, tuple, dict)):
            entries = list(value.items() if isinstance(value, dict) else enumerate(value))
            if len(entries) <= _ELEMENTS:
                for key, entry in entries:
                    if type(entry) in _KINDS:
                        self._found[f"{path}[{key}]"] = entry
                    self._look_into(f"{path}[{key}]", entry, depth, seen)
            return
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict) or isinstance(value, (type, Tensor, nn.Module, *_KINDS)):
            return
        self._attributes[path] = attributes
        if depth > 0:
            for name, entry in list(attributes.items()):
                self._look_into(f"{path}.{name}", entry, depth - 1, seen)

    def _generators(self) -> Iterator[tuple[str, Any]]:
        # Looked for anew each time: many are made when they are first needed.
        yield from self._found.items()
        for path, attributes in self._attributes.items():
            for name, value in attributes.items():
                if type(value) in _KINDS:
                    yield f"{path}.{name}", value

    def capture(self) -> States:
        """Returns the states of all that are there."""
        return {
            path: (_name(type(generator)), _KINDS[type(generator)].get(generator))
            for path, generator in self._generators()
        }

    def restore(self, states: States) -> None:
        """Sets the states of generators; one that is not there yet is made.

        Args:
            states: What :meth:`capture` returned.
        """
        present = dict(self._generators())
        kinds = {_name(kind): kind for kind in _KINDS}
        for path, (name, state) in states.items():
            kind = kinds[name]
            if type(present.get(path)) is kind:
                _KINDS[kind].set(present[path], state)
                continue
            holder, _, attribute = path.rpartition(".")
            if holder in self._attributes:
                generator = _KINDS[kind].make(state)
                _KINDS[kind].set(generator, state)
                self._attributes[holder][attribute] = generator
