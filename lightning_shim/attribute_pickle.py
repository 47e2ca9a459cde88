"""Values of attributes as pickles that another process can read into the objects that it has.

Objects that the other process makes by itself, such as the module, its parameters, and the lists that ``__init__`` has
made, are not made again: the pickle names them, and what is in them lies beside it. Whoever else has such an object
sees what was put into it. Everything else is a plain pickle.
"""

from __future__ import annotations

import functools
import io
import itertools
import pickle
import sys
import sysconfig
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim._versions import NAMESPACES
from lightning_shim._warnings import FRAMEWORK_PACKAGES
from lightning_shim.own_generators import is_generator, set_state_of_generator, state_of_generator

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})

NEVER_KEPT: Final = frozenset(
    {"determined", "lightning_shim", "lightning_fabric", *(name.partition(".")[0] for name in NAMESPACES)}
)
"""Packages whose objects are made anew in each process."""

_NAMED: Final = (type, FunctionType, BuiltinFunctionType)
_WITHOUT_IDENTITY: Final = (tuple, frozenset, complex, Enum, np.generic, np.dtype, torch.dtype, torch.device)
"""Objects of these are equal to those of another process, wherever they come from."""

_TENSORS: Final = (Tensor, nn.Parameter)

_OUT_OF_BAND: Final = 64 * 1024
"""From how many bytes on numbers are tensors of their own in the checkpoint, which are written without a copy."""

_STORED_TOGETHER: Final = 4096
"""Up to how many bytes a tensor is stored in one with others of its shape."""

_CHUNK: Final = 1024
"""How many at most."""

_HASHED_WHOLLY: Final = 64 * 1024**2
"""Up to how many bytes all of a tensor is hashed."""

_SAMPLES: Final = 4096
_PATHS_OF_PACKAGES: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class NotThereError(Exception):
    """An object that a checkpoint names is not there, or is another one."""


def is_usual_tensor(tensor: Tensor) -> bool:
    """Tells whether a tensor is nothing but numbers in memory."""
    return (
        type(tensor) in _TENSORS
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.device.type != "meta"
    )


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
    """Tells whether a class is the user's own, whose objects are what is in their attributes."""
    package = cls.__module__.partition(".")[0]
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    is_installed = file is None or file.startswith(_PATHS_OF_PACKAGES)
    return package not in FRAMEWORK_PACKAGES and (package in {*packages, "__main__"} or not is_installed)


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
    return ((f"[{key!r}]", entry) for key, entry in dict.items(value) if type(key) in PLAIN_TYPES)


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
    "dict": _Kind(lambda value: list(dict.items(value)), _fill_dict, _entries_of_dict),
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


class _First(NamedTuple):
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
        self.by_identity: Final[dict[int, _First]] = {}
        self.by_path: Final[dict[str, _First]] = {}

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
            if isinstance(value, tuple):
                waiting.extend((path + suffix, entry) for suffix, entry in _entries_of_list(value))
            elif not _is_made_anew(value, known):
                first = self.by_identity.get(id(value))
                if first is None:
                    first = self.by_identity[id(value)] = self._first(path, value)
                    waiting.extend((path + suffix, entry) for suffix, entry in first.entries(value))
                self.by_path[path] = first

    def _first(self, path: str, value: Any) -> _First:
        kind = _kind_of(value, self._packages)
        is_users = kind in _CONTAINERS and _is_users(type(value), self._packages)
        try:
            reference: Callable[[], Any] = weakref.ref(value)
        except TypeError:
            reference = lambda: value  # noqa: E731
        return _First(path, reference, kind, is_users or kind == "object")

    def storages(self) -> set[int]:
        """Returns the pointers to the storages of the tensors among them."""
        there = (first.reference() for first in self.by_identity.values() if first.kind == "tensor")
        return {tensor.untyped_storage().data_ptr() for tensor in there if tensor is not None}


def _is_made_anew(value: Any, known: KnownObjects) -> bool:
    """Tells whether it is of no use to know where an object was."""
    cls = type(value)
    if cls in _TENSORS:
        return id(value) in known.names or known.part(value) is not None
    if cls in PLAIN_TYPES or issubclass(cls, _WITHOUT_IDENTITY) or id(value) in known.names:
        return True
    if issubclass(cls, _NAMED):
        return _is_named(value)
    return cls is MethodType and _is_found_by_name(value)


def _is_named(value: Any) -> bool:
    """Tells whether a class or a function is found where it says that it is."""
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _is_found_by_name(method: MethodType) -> bool:
    """Tells whether a method is the one that its object's class has under its name."""
    owner = method.__self__ if isinstance(method.__self__, type) else type(method.__self__)
    found = getattr(owner, method.__name__, None)
    return getattr(found, "__func__", found) is method.__func__


def _bytes_of(tensor: Tensor) -> pickle.PickleBuffer:
    """Returns a tensor's numbers, without a copy if they lie in order in the memory of the CPU."""
    numbers = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return pickle.PickleBuffer(numbers.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _numbers(contents: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    # An empty buffer is refused.
    return torch.frombuffer(contents, dtype=dtype).reshape(shape) if len(contents) else torch.empty(shape, dtype=dtype)


def _make_tensor(
    contents: Any, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device, requires_grad: bool, cls: type
) -> Tensor:
    return _with_class(_numbers(contents, dtype, shape).to(device), requires_grad, cls)


def _make_storage(contents: Any, device: torch.device) -> torch.UntypedStorage:
    return torch.frombuffer(contents, dtype=torch.uint8).to(device).untyped_storage()


def _make_view(
    storage: torch.UntypedStorage, dtype: torch.dtype, place: tuple[Any, ...], requires_grad: bool, cls: type
) -> Tensor:
    view = torch.empty(0, dtype=dtype, device=storage.device).set_(storage, *place)
    return _with_class(view, requires_grad, cls)


def _with_class(tensor: Tensor, requires_grad: bool, cls: type) -> Tensor:
    return nn.Parameter(tensor, requires_grad) if cls is nn.Parameter else tensor.requires_grad_(requires_grad)


class AttributePickler(pickle.Pickler):
    """Pickles values of attributes.

    Args:
        known: What is stored by its name.
        first: What was there when training began.
        write: Takes the bytes.
        take: Takes numbers in bulk; returns True to have them written as bytes.

    Attributes:
        reached: The objects that were come across, by their identity, and the storages of tensors.
        storages: How many tensors there are on each storage, by its pointer.
    """

    def __init__(
        self,
        known: KnownObjects,
        first: FirstObjects,
        write: Callable[[bytes], Any],
        take: Callable[[pickle.PickleBuffer], bool],
    ) -> None:
        super().__init__(SimpleNamespace(write=write), protocol=5, buffer_callback=take)
        self._known: Final = known
        self._first: Final = first
        self._waiting: list[tuple[_First, Any]] = []
        self.reached: Final[dict[Any, Any]] = {}
        self.storages: Final[Counter[int]] = Counter()

    def _numbers(self, tensor: Tensor) -> Any:
        """Returns what is pickled in place of a tensor's numbers."""
        return _bytes_of(tensor)

    def _shares_storage(self, tensor: Tensor) -> bool:
        """Tells whether the storage is stored, and the tensor as a view of it."""
        return False

    def dump_with_contents(self, value: Any) -> None:
        """Pickles a value, and what is in the objects that were there when training began."""
        self.dump(value)
        while self._waiting:
            objects, self._waiting = self._waiting, []
            self._dump_contents(objects)

    def _dump_contents(self, objects: list[tuple[_First, Any]]) -> None:
        alone: dict[int, Any] = {}
        # Of small tensors there may be many: those that are alike are stored in one.
        alike: dict[Any, list[int]] = {}
        for index, (first, value) in enumerate(objects):
            if first.kind == "tensor" and value.nbytes <= _STORED_TOGETHER:
                key = type(value), value.dtype, value.shape, value.device, value.requires_grad
                alike.setdefault(key, []).append(index)
            elif first.kind is not None:
                alone[index] = first.contents(value)
        chunks = [indices[at : at + _CHUNK] for indices in alike.values() for at in range(0, len(indices), _CHUNK)]
        self.dump((alone, len(chunks)))
        for chunk in chunks:
            tensors = [objects[index][1] for index in chunk]
            with torch.no_grad():
                self.dump((type(tensors[0]).__qualname__, tensors[0].requires_grad, chunk, torch.stack(tensors)))

    def persistent_id(self, value: Any) -> Any:
        """Returns what stands for an object that the other process has; None for any other."""
        cls = type(value)
        if cls in PLAIN_TYPES:
            return None
        identity = id(value)
        name = self._known.names.get(identity)
        if name is not None:
            return ("known", name)
        first = self._first.by_identity.get(identity)
        if first is not None and first.reference() is value:
            if identity not in self.reached:
                self.reached[identity] = value
                self._waiting.append((first, value))
            return first.path
        if cls is torch.device:
            return ("device", None if value == self._known.device else str(value))
        part = self._known.part(value) if cls in _TENSORS else None
        if part is not None:
            return ("part", *part)
        if not issubclass(cls, (*_NAMED, *_WITHOUT_IDENTITY)):
            self.reached[identity] = value
        return None

    def reducer_override(self, value: Any) -> Any:
        """Says how an object is pickled that is not of Python's own classes."""
        cls = type(value)
        if cls in _TENSORS and is_usual_tensor(value):
            return self._reduced(value)
        if cls is torch.UntypedStorage:
            every = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value)
            return _make_storage, (_bytes_of(every), value.device)
        is_kept = cls is not MethodType or _is_found_by_name(value)
        if cls.__module__.partition(".")[0] in NEVER_KEPT:
            is_kept = issubclass(cls, (nn.Module, *_WITHOUT_IDENTITY))
        if issubclass(cls, (Dataset, DataLoader, Sampler)) or not is_kept:
            raise pickle.PicklingError(f"a {cls.__qualname__} is not kept")
        return NotImplemented

    def _reduced(self, tensor: Tensor) -> Any:
        pointer = tensor.untyped_storage().data_ptr()
        self.storages[pointer] += 1
        self.reached["storage", pointer] = None
        trains = tensor.is_leaf and tensor.requires_grad
        if self._shares_storage(tensor):
            place = tensor.storage_offset(), tuple(tensor.shape), tensor.stride()
            return _make_view, (tensor.untyped_storage(), tensor.dtype, place, trains, type(tensor))
        numbers = self._numbers(tensor)
        return _make_tensor, (numbers, tensor.dtype, tuple(tensor.shape), tensor.device, trains, type(tensor))


class Written(AttributePickler):
    """A pickle that a checkpoint is to hold.

    Args:
        known: What is stored by its name.
        first: What was there when training began.
        storages: How many tensors there are on each storage.

    Attributes:
        buffers: Numbers in bulk, which are not in the pickle: tensors over the memory where they are.
    """

    def __init__(self, known: KnownObjects, first: FirstObjects, storages: Mapping[int, int]) -> None:
        self._stream: Final = io.BytesIO()
        self.buffers: Final[list[Tensor]] = []
        super().__init__(known, first, self._stream.write, functools.partial(_take, self.buffers))
        # A view of what was there at first is stored by its own numbers, however large that is.
        self._shared: Final = {pointer for pointer, count in storages.items() if count > 1} - first.storages()

    def getvalue(self) -> bytes:
        """Returns the pickle."""
        return self._stream.getvalue()

    def _shares_storage(self, tensor: Tensor) -> bool:
        is_as_stored = not tensor.is_conj() and not tensor.is_neg()
        return is_as_stored and tensor.untyped_storage().data_ptr() in self._shared


def _take(buffers: list[Tensor], buffer: pickle.PickleBuffer) -> bool:
    raw = buffer.raw()
    if raw.readonly or raw.nbytes < _OUT_OF_BAND:
        return True
    buffers.append(torch.frombuffer(raw, dtype=torch.uint8))
    return False


class Hashed(AttributePickler):
    """What a value can be recognised by in this process; it is pickled for nothing else.

    Args:
        known: What is stored by its name.
        first: What was there when training began.
    """

    def __init__(self, known: KnownObjects, first: FirstObjects) -> None:
        self._hash: Final = xxhash.xxh3_128()
        super().__init__(known, first, self._hash.update, functools.partial(_hash, self._hash))

    def digest(self) -> bytes:
        """Returns the hash of what was pickled."""
        return self._hash.digest()

    def _numbers(self, tensor: Tensor) -> Any:
        """Returns a tensor's numbers; of a large one, what changes with them.

        Each write in place counts up ``Tensor._version``, a private name that PyTorch's notes on autograd explain.
        Writes by ``tensor.data``, by a NumPy array over the same memory, or by another process do not. The samples
        show those that reach everywhere, as the update of an average does; one of single rows goes unseen.
        """
        if tensor.nbytes <= _HASHED_WHOLLY or tensor.is_inference():
            return _bytes_of(tensor)
        storage = tensor.untyped_storage()
        samples = torch.empty(0, dtype=torch.int64, device=tensor.device)
        samples.set_(storage, 0, (_SAMPLES,), (storage.nbytes() // 8 // _SAMPLES,))
        place = tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
        return tensor._version, place, samples.cpu().numpy().tobytes()


def _hash(hash_: Any, buffer: pickle.PickleBuffer) -> bool:
    hash_.update(buffer.raw())
    return False


class AttributeUnpickler(pickle.Unpickler):
    """Reads what :class:`AttributePickler` has written.

    Args:
        stream: The pickle.
        buffers: The numbers that are not in it.
        known: What is stored by its name.
        first: What was there when training began.
    """

    def __init__(self, stream: bytes, buffers: list[Tensor], known: KnownObjects, first: FirstObjects) -> None:
        super().__init__(io.BytesIO(stream), buffers=[buffer.numpy() for buffer in buffers])
        self._known: Final = known
        self._first: Final = first
        self._waiting: list[tuple[_First, Any]] = []
        self._reached: Final[set[str]] = set()

    def load_with_contents(self) -> Any:
        """Returns the value, and fills the objects that were there when training began.

        Raises:
            NotThereError: If one of them is missing, or is another one; nothing is filled then.
        """
        value = self.load()
        filled: list[tuple[tuple[_First, Any], Any]] = []
        while self._waiting:
            objects, self._waiting = self._waiting, []
            filled += [(objects[index], contents) for index, contents in self._load_contents()]
        # What is in a set or a dictionary comes before it: it may be hashed by what is in it.
        for (first, present), contents in reversed(filled):
            first.fill(present, contents)
        return value

    def _load_contents(self) -> Iterator[tuple[int, Any]]:
        alone, chunks = self.load()
        yield from alone.items()
        for _ in range(chunks):
            name, requires_grad, chunk, tensors = self.load()
            for index, numbers in zip(chunk, tensors, strict=True):
                yield index, ("tensor", name, (numbers, requires_grad), None)

    def persistent_load(self, identity: Any) -> Any:
        """Returns the object that is there."""
        if isinstance(identity, str):
            first = self._first.by_path.get(identity)
            present = None if first is None else first.reference()
            if first is None or present is None:
                raise NotThereError
            if identity not in self._reached:
                self._reached.add(identity)
                self._waiting.append((first, present))
            return present
        kind, *rest = identity
        if kind == "device":
            return self._device(rest[0])
        if rest[0] not in self._known.by_name:
            raise NotThereError
        found = self._known.by_name[rest[0]]
        return found if kind == "known" else found.detach().as_strided(*rest[1:])

    def _device(self, name: str | None) -> torch.device:
        device = self._known.device if name is None else torch.device(name)
        is_there = device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()
        return device if is_there else self._known.device
