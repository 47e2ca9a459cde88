"""Random generators that loaders, samplers, datasets and their transforms hold in attributes.

A resumed trial has to restore them like the global ones, or it would shuffle and augment differently.
"""

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
"""The limits of the search: levels of attributes, objects in all, and elements of a container. A dataset may hold any
number of objects, but its generators are close to it."""


@dataclass(frozen=True, slots=True)
class _Access:
    """The functions that read and set the state of one class of generators, and create a generator for a state."""

    get: Callable[[Any], Any]
    set: Callable[[Any, Any], Any]
    make: Callable[[Any], Any]


def _set_bit_generator(generator: np.random.Generator, state: Any) -> None:
    generator.bit_generator.state = state


def _name(generator_class: type) -> str:
    return f"{generator_class.__module__}.{generator_class.__qualname__}"


def _torch_state(generator: torch.Generator) -> tuple[str, Tensor]:
    return generator.device.type, generator.get_state()


def _set_torch_state(generator: torch.Generator, state: tuple[str, Tensor]) -> None:
    device, numbers = state
    # The states of a CPU and of a GPU do not fit each other. A trial may resume on a machine without a GPU.
    if generator.device.type == device:
        generator.set_state(numbers)


def _make_torch_generator(state: tuple[str, Tensor]) -> torch.Generator:
    return torch.Generator(state[0] if state[0] != "cuda" or torch.cuda.is_available() else "cpu")


_ACCESS: Final[dict[type, _Access]] = {
    torch.Generator: _Access(_torch_state, _set_torch_state, _make_torch_generator),
    random.Random: _Access(random.Random.getstate, random.Random.setstate, lambda _: random.Random()),
    np.random.RandomState: _Access(
        np.random.RandomState.get_state, np.random.RandomState.set_state, lambda _: np.random.RandomState()
    ),
    np.random.Generator: _Access(
        lambda generator: generator.bit_generator.state,
        _set_bit_generator,
        lambda state: np.random.Generator(getattr(np.random, state["bit_generator"])()),
    ),
}

States = dict[str, tuple[str, Any]]
"""The name of a generator's class and its state, by the path to the attribute."""


def is_generator(value: Any) -> bool:
    """Whether an object is a random generator whose state can be captured."""
    # The very class: a subclass may have a state that the functions of its base do not know.
    return type(value) in _ACCESS


def state_of_generator(generator: Any) -> Any:
    """Returns the state of a generator for which :func:`is_generator` is true."""
    return _ACCESS[type(generator)].get(generator)


def set_state_of_generator(generator: Any, state: Any) -> None:
    """Sets the state of a generator to one that :func:`state_of_generator` returned."""
    _ACCESS[type(generator)].set(generator, state)


class OwnGenerators:
    """The generators of some objects, and of the objects that these hold."""

    def __init__(self, roots: Mapping[str, Any]) -> None:
        self._attributes: Final[dict[str, dict[str, Any]]] = {}
        self._found: Final = {path: root for path, root in roots.items() if type(root) in _ACCESS}
        seen: set[int] = set()
        for path, root in roots.items():
            self._search(path, root, _DEPTH, seen)

    def _search(self, path: str, value: Any, depth: int, seen: set[int]) -> None:
        if id(value) in seen or len(seen) >= _OBJECTS:
            return
        seen.add(id(value))
        if isinstance(value, (list, tuple, dict)):
            entries = list(value.items() if isinstance(value, dict) else enumerate(value))
            if len(entries) <= _ELEMENTS:
                for key, entry in entries:
                    if type(entry) in _ACCESS:
                        self._found[f"{path}[{key}]"] = entry
                    self._search(f"{path}[{key}]", entry, depth, seen)
            return
        attributes = getattr(value, "__dict__", None)
        if not isinstance(attributes, dict) or isinstance(value, (type, Tensor, nn.Module, *_ACCESS)):
            return
        self._attributes[path] = attributes
        if depth > 0:
            for name, entry in list(attributes.items()):
                self._search(f"{path}.{name}", entry, depth - 1, seen)

    def _generators(self) -> Iterator[tuple[str, Any]]:
        # The attributes are read each time, since many generators are created only when they are first needed.
        yield from self._found.items()
        for path, attributes in self._attributes.items():
            for name, value in attributes.items():
                if type(value) in _ACCESS:
                    yield f"{path}.{name}", value

    def capture(self) -> States:
        """Returns the states of all generators that exist by now."""
        return {
            path: (_name(type(generator)), _ACCESS[type(generator)].get(generator))
            for path, generator in self._generators()
        }

    def restore(self, states: States) -> None:
        """Restores states, and creates the generators that do not exist yet."""
        present = dict(self._generators())
        classes = {_name(generator_class): generator_class for generator_class in _ACCESS}
        for path, (name, state) in states.items():
            access = _ACCESS[classes[name]]
            if type(present.get(path)) is classes[name]:
                access.set(present[path], state)
                continue
            holder, _, attribute = path.rpartition(".")
            if holder in self._attributes:
                generator = access.make(state)
                access.set(generator, state)
                self._attributes[holder][attribute] = generator
