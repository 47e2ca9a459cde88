"""Objects that another process has as well: those that have a name there, and those that were there at first.

What is in the latter is read from one process and put into the object that the other one has in the same place. Whoever
else has that object sees it.
"""

from __future__ import annotations

import itertools
import pickle
import sys
import sysconfig
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES
from lightning_shim.session.own_generators import is_generator, set_state_of_generator, state_of_generator

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})

NAMED: Final = (type, FunctionType, BuiltinFunctionType)
WITHOUT_IDENTITY: Final = (tuple, frozenset, complex, Enum, np.generic, np.dtype, torch.dtype, torch.device)
"""Objects of these are equal to those of another process, wherever they come from."""

TENSORS: Final = (Tensor, nn.Parameter)

_PATHS_OF_PACKAGES: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class NotThereError(Exception):
    """An object that a checkpoint names is not there, or is another one."""


def is_usual_tensor(tensor: Tensor) -> bool:
    """Tells whether a tensor is nothing but numbers in memory."""
    return type(tensor) in TENSORS and tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


class KnownObjects:
    """Objects that are saved elsewhere, or made by others: they are stored by their names.

    Args:
        named: The objects by names that are the same in each process.
        tensors: Parameters and buffers by such names. A tensor that shows a part of one is stored as that.
        device: The device of the module.
    """

    def __init__(self, named: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.by_name: Final[dict[str, Any]] = {**named, **tensors}
        self.names: Final = {id(entry): name for name, entry in self.by_name.items()}
        self.device: Final = device
        self._names_by_storage: Final = {
            pointer: name
            for name, entry in tensors.items()
            if is_usual_tensor(entry) and (pointer := entry.untyped_storage().data_ptr())
        }

    def part(self, tensor: Tensor) -> tuple[Any, ...] | None:
        """Returns the name of the tensor that shares its storage with another one, and where; None if none does."""
        if tensor.layout is not torch.strided:
            return None
        name = self._names_by_storage.get(tensor.untyped_storage().data_ptr())
        if name is None or self.by_name[name].dtype != tensor.dtype:
            return None
        return name, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


def _is_users(cls: type, packages: frozenset[str]) -> bool:
    """Tells whether a class is the user's own, whose objects are what is in their attributes; or a configuration's."""
    package = cls.__module__.partition(".")[0]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    is_installed = file is None or file.startswith(_PATHS_OF_PACKAGES)
    return package not in FRAMEWORK_PACKAGES and (package in {*packages, "__main__", "omegaconf"} or not is_installed)


@dataclass(frozen=True, slots=True)
class _Kind:
    """Objects of one kind: how what is in one is read, and put into the one of another process.

    Attributes:
        contents: Returns what is in an object.
        fill: Puts that into another one.
        entries: Returns what may be there in the other process as well, each with how it is reached.
    """

    contents: Callable[[Any], Any]
    fill: Callable[[Any, Any], None]
    entries: Callable[[Any], Iterable[tuple[str, Any]]] | None = None


def _entries_of_list(value: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"[{index}]", entry) for index, entry in enumerate(value) if type(entry) not in PLAIN_TYPES)


def _entries_of_dict(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    # Keys that are objects have no order that is the same everywhere.
    return ((f"[{key!r}]", entry) for key, entry in value.items() if type(key) in PLAIN_TYPES)


def _fill_list(value: list[Any], contents: list[Any]) -> None:
    value[:] = contents


def _fill_deque(value: deque[Any], contents: tuple[int | None, list[Any]]) -> None:
    if value.maxlen != contents[0]:
        raise NotThereError
    value.clear()
    value.extend(contents[1])


def _fill_set(value: set[Any], contents: list[Any]) -> None:
    value.clear()
    value.update(contents)


def _fill_dict(value: dict[Any, Any], contents: list[tuple[Any, Any]]) -> None:
    value.clear()
    # A Counter would count the pairs.
    value.update(dict(contents))


def _fill_array(value: Any, contents: Any) -> None:
    if (value.shape, value.dtype) != (contents.shape, contents.dtype):
        raise NotThereError
    value[...] = contents


def _fill_tensor(value: Tensor, contents: tuple[Tensor, bool]) -> None:
    numbers, requires_grad = contents
    if (value.shape, value.dtype) == (numbers.shape, numbers.dtype):
        with torch.no_grad():
            value.copy_(numbers)
    else:
        # It has got another shape where it is.
        value.data = numbers.to(value.device)
    if value.is_leaf:
        value.requires_grad_(requires_grad)


def _has_state(cls: type) -> bool:
    # Of the class: a unittest.mock.Mock has every method, and each of them returns another one.
    return all(callable(getattr(cls, name, None)) for name in ("state_dict", "load_state_dict"))


_KINDS: Final[dict[str, _Kind]] = {
    "list": _Kind(list, _fill_list, _entries_of_list),
    "deque": _Kind(lambda value: (value.maxlen, list(value)), _fill_deque, _entries_of_list),
    # An object of the user's within one is hashed when it is complete, hence a list.
    "set": _Kind(list, _fill_set),
    "dict": _Kind(lambda value: list(value.items()), _fill_dict, _entries_of_dict),
    "bytearray": _Kind(bytes, _fill_list),
    "array": _Kind(lambda value: value[...], _fill_array),
    "tensor": _Kind(lambda value: (value.detach(), value.requires_grad), _fill_tensor),
    "generator": _Kind(state_of_generator, set_state_of_generator),
    "state": _Kind(lambda value: value.state_dict(), lambda value, contents: value.load_state_dict(contents)),
    "object": _Kind(lambda value: None, lambda value, contents: None),
}
"""By the names that stand in checkpoints."""


_CONTAINERS: Final = {base.__name__: base for base in (list, deque, set, dict, bytearray)}


def _kind_of(value: Any, packages: frozenset[str]) -> str | None:
    """Returns the name of an object's kind; None if what is in it is left as it is."""
    # Not by isinstance, which asks objects that pretend to be others.
    cls = type(value)
    if issubclass(cls, Tensor):
        return "tensor" if is_usual_tensor(value) else None
    container = next((name for name, base in _CONTAINERS.items() if issubclass(cls, base)), None)
    if container is not None:
        return container
    if cls is np.ndarray:
        return "array" if value.flags.writeable and not value.dtype.hasobject else None
    if is_generator(value):
        return "generator"
    if issubclass(cls, (Dataset, DataLoader, Sampler)):
        return None
    if _has_state(cls) and not issubclass(cls, nn.Module):
        return "state"
    return "object" if issubclass(cls, nn.Module) or _is_users(cls, packages) else None


def _slots(value: Any) -> list[str]:
    classes = type(value).__mro__
    return [name for cls in classes for name, entry in vars(cls).items() if type(entry) is MemberDescriptorType]


def _attributes(value: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Returns the attributes of an object that are in its dictionary, and those that are in slots."""
    slots = [(name, getattr(value, name)) for name in _slots(value) if hasattr(value, name)]
    return list(getattr(value, "__dict__", {}).items()), slots


def _set_attributes(value: Any, contents: tuple[list[tuple[str, Any]], list[tuple[str, Any]]]) -> None:
    # Past __setattr__, which may do more than that.
    in_dictionary, in_slots = contents
    if hasattr(value, "__dict__"):
        _fill_dict(vars(value), in_dictionary)
    for name in _slots(value):
        if hasattr(value, name):
            object.__delattr__(value, name)
    for name, entry in in_slots:
        object.__setattr__(value, name, entry)


class First(NamedTuple):
    """An object that was there when training began.

    Attributes:
        path: Where.
        reference: Returns it, or None if it is gone.
        kind: The name of its kind, if what is in it is kept.
        has_attributes: Whether its attributes are in it.
    """

    path: str
    reference: Callable[[], Any]
    kind: str | None
    has_attributes: bool

    def entries(self, value: Any) -> Iterable[tuple[str, Any]]:
        """Returns what is in it and may be there in the other process as well, each with how it is reached."""
        find = None if self.kind is None else _KINDS[self.kind].entries
        entries = () if find is None else find(value)
        if not self.has_attributes:
            return entries
        # Both those of its dictionary and those in slots.
        attributes = itertools.chain(*_attributes(value))
        return itertools.chain(entries, ((f".{name}", entry) for name, entry in attributes))

    def contents(self, value: Any) -> Any:
        """Returns what is in it now; None if that is left as it is."""
        if self.kind is None:
            return None
        attributes = _attributes(value) if self.has_attributes else None
        return self.kind, type(value).__qualname__, _KINDS[self.kind].contents(value), attributes

    def fill(self, value: Any, contents: Any) -> None:
        """Puts into it what was in that of another process."""
        kind, name, own, attributes = contents
        if (kind, name) != (self.kind, type(value).__qualname__):
            raise NotThereError
        if attributes is not None:
            _set_attributes(value, attributes)
        _KINDS[kind].fill(value, own)


class FirstObjects:
    """Remembers which object was where when training began, and keeps none of them alive that can go without.

    Args:
        packages: The packages whose classes are the user's wherever they are installed.
    """

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages: Final = packages
        self.by_identity: Final[dict[int, First]] = {}
        self.by_path: Final[dict[str, First]] = {}

    def add(self, path: str, value: Any, known: KnownObjects) -> None:
        """Remembers an object, and those in it.

        Args:
            path: Where it is, the same in each process.
            value: The object.
            known: What is stored by its name, and is not looked into.
        """
        waiting = [(path, value)]
        while waiting:
            path, value = waiting.pop()
            if issubclass(type(value), tuple):
                waiting.extend((path + suffix, entry) for suffix, entry in _entries_of_list(value))
            elif not _is_made_anew(value, known):
                first = self.by_identity.get(id(value))
                if first is None:
                    first = self.by_identity[id(value)] = self._first(path, value)
                    entries = first.entries(value)
                    if entries:
                        waiting.extend((path + suffix, entry) for suffix, entry in entries)
                self.by_path[path] = first

    def _first(self, path: str, value: Any) -> First:
        kind = _kind_of(value, self._packages)
        is_users = kind in _CONTAINERS and _is_users(type(value), self._packages)
        try:
            reference: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            reference = lambda: value  # noqa: E731
        return First(path, reference, kind, is_users or kind == "object")

    def storages(self) -> set[int]:
        """Returns the pointers to the storages of the tensors among them."""
        there = (first.reference() for first in self.by_identity.values() if first.kind == "tensor")
        return {tensor.untyped_storage().data_ptr() for tensor in there if tensor is not None}


def _is_made_anew(value: Any, known: KnownObjects) -> bool:
    """Tells whether it is of no use to know where an object was."""
    cls = type(value)
    if cls in TENSORS:
        return id(value) in known.names or known.part(value) is not None
    if cls in PLAIN_TYPES or issubclass(cls, WITHOUT_IDENTITY) or id(value) in known.names:
        return True
    if issubclass(cls, NAMED):
        return _is_named(value)
    return cls is MethodType and is_found_by_name(value)


def _is_named(value: Any) -> bool:
    """Tells whether a class or a function is found where it says that it is."""
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def is_found_by_name(method: MethodType) -> bool:
    """Tells whether a method is the one that its object's class has under its name."""
    owner = method.__self__ if isinstance(method.__self__, type) else type(method.__self__)
    found = getattr(owner, method.__name__, None)
    return getattr(found, "__func__", found) is method.__func__
