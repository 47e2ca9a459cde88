"""Objects that another process has as well: known ones, which have a name, and those that existed when training began.

The contents of an initial object are saved and filled into the object that the other process has in the same place, so
that everybody who refers to that object sees them.
"""

from __future__ import annotations

import itertools
import pickle
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

from lightning_shim.session.own_generators import is_generator, set_state_of_generator, state_of_generator
from lightning_shim.user_code.user_class import is_users_class

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})

NAMED: Final = (type, FunctionType, BuiltinFunctionType)
WITHOUT_IDENTITY: Final = (tuple, frozenset, complex, Enum, np.generic, np.dtype, torch.dtype, torch.device)
"""Types whose objects have no identity that matters: equal ones can replace each other."""

TENSORS: Final = (Tensor, nn.Parameter)


class MissingObjectError(Exception):
    """An object that a checkpoint names does not exist here, or is of another kind."""


def is_usual_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but numbers in memory."""
    return type(tensor) in TENSORS and tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


class KnownObjects:
    """Objects that are stored by name, since they are saved elsewhere or created by somebody else.

    Their names are the same in each process. A view of one of the tensors is stored as a view.
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
        """Describes a tensor as a view of a known one: its name, shape, stride and offset; None if it is no view."""
        if tensor.layout is not torch.strided:
            return None
        name = self._names_by_storage.get(tensor.untyped_storage().data_ptr())
        if name is None or self.by_name[name].dtype != tensor.dtype:
            return None
        return name, tuple(tensor.shape), tensor.stride(), tensor.storage_offset()


@dataclass(frozen=True, slots=True)
class _Handler:
    """Access to the contents of one kind of object."""

    contents: Callable[[Any], Any]  # returns an object's contents
    fill: Callable[[Any, Any], None]  # replaces the contents of an object of another process
    # Returns the objects in it that another process may have as well, each with the path to it.
    entries: Callable[[Any], Iterable[tuple[str, Any]]] | None = None


def _entries_of_list(value: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"[{index}]", entry) for index, entry in enumerate(value) if type(entry) not in PLAIN_TYPES)


def _entries_of_dict(value: dict[Any, Any]) -> Iterator[tuple[str, Any]]:
    # Only plain keys: the repr of another object may differ from process to process, and so the path would.
    return ((f"[{key!r}]", entry) for key, entry in value.items() if type(key) in PLAIN_TYPES)


def _fill_list(value: list[Any], contents: list[Any]) -> None:
    value[:] = contents


def _fill_deque(value: deque[Any], contents: tuple[int | None, list[Any]]) -> None:
    if value.maxlen != contents[0]:
        raise MissingObjectError
    value.clear()
    value.extend(contents[1])


def _fill_set(value: set[Any], contents: list[Any]) -> None:
    value.clear()
    value.update(contents)


def _fill_dict(value: dict[Any, Any], contents: list[tuple[Any, Any]]) -> None:
    value.clear()
    # As a dictionary, since a Counter would count the pairs.
    value.update(dict(contents))


def _fill_array(value: Any, contents: Any) -> None:
    if (value.shape, value.dtype) != (contents.shape, contents.dtype):
        raise MissingObjectError
    value[...] = contents


def _fill_tensor(value: Tensor, contents: tuple[Tensor, bool]) -> None:
    numbers, requires_grad = contents
    if (value.shape, value.dtype) == (numbers.shape, numbers.dtype):
        with torch.no_grad():
            value.copy_(numbers)
    else:
        # It was resized in the other process.
        value.data = numbers.to(value.device)
    if value.is_leaf:
        value.requires_grad_(requires_grad)


def _has_state(cls: type) -> bool:
    # The class is asked: a unittest.mock.Mock has every method, and each returns another Mock, without end.
    return all(callable(getattr(cls, name, None)) for name in ("state_dict", "load_state_dict"))


_HANDLERS: Final[dict[str, _Handler]] = {
    "list": _Handler(list, _fill_list, _entries_of_list),
    "deque": _Handler(lambda value: (value.maxlen, list(value)), _fill_deque, _entries_of_list),
    # As a list: an object in a set is hashed when it is added, and by then it has to be complete.
    "set": _Handler(list, _fill_set),
    "dict": _Handler(lambda value: list(value.items()), _fill_dict, _entries_of_dict),
    "bytearray": _Handler(bytes, _fill_list),
    "array": _Handler(lambda value: value[...], _fill_array),
    "tensor": _Handler(lambda value: (value.detach(), value.requires_grad), _fill_tensor),
    "generator": _Handler(state_of_generator, set_state_of_generator),
    "state": _Handler(lambda value: value.state_dict(), lambda value, contents: value.load_state_dict(contents)),
    "object": _Handler(lambda value: None, lambda value, contents: None),
}
"""By the names of the kinds, as they appear in checkpoints."""

_CONTAINERS: Final = {base.__name__: base for base in (list, deque, set, dict, bytearray)}


def _kind_of(value: Any, packages: frozenset[str]) -> str | None:
    """Returns the name of an object's kind; None if its contents are left alone."""
    # Not by isinstance: objects may pretend to be of another class.
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
    return "object" if issubclass(cls, nn.Module) or is_users_class(cls, packages) else None


def _slots(value: Any) -> list[str]:
    classes = type(value).__mro__
    return [name for cls in classes for name, entry in vars(cls).items() if type(entry) is MemberDescriptorType]


def _attributes(value: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Returns an object's attributes: those in its dictionary, and those in slots."""
    slots = [(name, getattr(value, name)) for name in _slots(value) if hasattr(value, name)]
    return list(getattr(value, "__dict__", {}).items()), slots


def _set_attributes(value: Any, contents: tuple[list[tuple[str, Any]], list[tuple[str, Any]]]) -> None:
    # Not by setattr: a class's own __setattr__ may do more than assign.
    in_dictionary, in_slots = contents
    if hasattr(value, "__dict__"):
        _fill_dict(vars(value), in_dictionary)
    for name in _slots(value):
        if hasattr(value, name):
            object.__delattr__(value, name)
    for name, entry in in_slots:
        object.__setattr__(value, name, entry)


class InitialObject(NamedTuple):
    """An object that existed when training began."""

    path: str
    reference: Callable[[], Any]  # returns the object, or None if it is gone
    kind: str | None  # the name of its kind; None if its contents are not saved
    has_attributes: bool  # whether its attributes are a part of its contents

    def entries(self, value: Any) -> Iterable[tuple[str, Any]]:
        """Returns the objects in it that another process may have as well, each with the path to it."""
        find = None if self.kind is None else _HANDLERS[self.kind].entries
        entries = () if find is None else find(value)
        if not self.has_attributes:
            return entries
        attributes = itertools.chain(*_attributes(value))
        return itertools.chain(entries, ((f".{name}", entry) for name, entry in attributes))

    def contents(self, value: Any) -> Any:
        """Returns its present contents; None if they are not saved."""
        if self.kind is None:
            return None
        attributes = _attributes(value) if self.has_attributes else None
        return self.kind, type(value).__qualname__, _HANDLERS[self.kind].contents(value), attributes

    def fill(self, value: Any, contents: Any) -> None:
        """Replaces its contents by those of another process."""
        kind, name, own, attributes = contents
        if (kind, name) != (self.kind, type(value).__qualname__):
            raise MissingObjectError
        if attributes is not None:
            _set_attributes(value, attributes)
        _HANDLERS[kind].fill(value, own)


class InitialObjects:
    """The objects that existed when training began and the paths to them, held by weak references where possible."""

    def __init__(self, packages: frozenset[str]) -> None:
        self._packages: Final = packages
        self.by_identity: Final[dict[int, InitialObject]] = {}
        self.by_path: Final[dict[str, InitialObject]] = {}

    def add(self, path: str, value: Any, known: KnownObjects) -> None:
        """Records an object and those in it, by a path that is the same in each process."""
        # Not recursive: objects may be nested more deeply than Python's stack allows.
        waiting = [(path, value)]
        while waiting:
            path, value = waiting.pop()
            if issubclass(type(value), tuple):
                waiting.extend((path + suffix, entry) for suffix, entry in _entries_of_list(value))
            elif not _is_made_anew(value, known):
                initial = self.by_identity.get(id(value))
                if initial is None:
                    initial = self.by_identity[id(value)] = self._initial_object(path, value)
                    entries = initial.entries(value)
                    if entries:
                        waiting.extend((path + suffix, entry) for suffix, entry in entries)
                self.by_path[path] = initial

    def add_as_a_whole(self, path: str, value: Any) -> None:
        """Records an object that is stored by name, without its contents and what is in it."""
        if id(value) not in self.by_identity:
            initial = InitialObject(path, _reference(value), None, False)
            self.by_identity[id(value)] = self.by_path[path] = initial

    def forget(self, path: str) -> None:
        """Forgets the objects whose paths begin with a path, unless they were found by another one first."""
        for known in [known for known in self.by_path if known.startswith(path)]:
            del self.by_path[known]
        for identity, initial in list(self.by_identity.items()):
            if initial.path.startswith(path):
                del self.by_identity[identity]

    def _initial_object(self, path: str, value: Any) -> InitialObject:
        kind = _kind_of(value, self._packages)
        is_users = kind in _CONTAINERS and is_users_class(type(value), self._packages)
        return InitialObject(path, _reference(value), kind, is_users or kind == "object")

    def storages(self) -> set[int]:
        """Returns the pointers of the storages of the tensors among them."""
        there = (initial.reference() for initial in self.by_identity.values() if initial.kind == "tensor")
        return {tensor.untyped_storage().data_ptr() for tensor in there if tensor is not None}


def _reference(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:
        # Lists and dictionaries, for example, cannot be referred to weakly.
        return lambda: value


def _is_made_anew(value: Any, known: KnownObjects) -> bool:
    """Whether the place of an object need not be recorded: it is plain, or has a name."""
    cls = type(value)
    if cls in TENSORS:
        return id(value) in known.names or known.part(value) is not None
    if cls in PLAIN_TYPES or issubclass(cls, WITHOUT_IDENTITY) or id(value) in known.names:
        return True
    if issubclass(cls, NAMED):
        return _is_named(value)
    return cls is MethodType and is_found_by_name(value)


def _is_named(value: Any) -> bool:
    """Whether a class or function can be imported by its name."""
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def is_found_by_name(method: MethodType) -> bool:
    """Whether a method is the one that its object's class has by that name."""
    owner = method.__self__ if isinstance(method.__self__, type) else type(method.__self__)
    found = getattr(owner, method.__name__, None)
    return getattr(found, "__func__", found) is method.__func__
