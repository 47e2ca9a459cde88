"""The kinds of values that a checkpoint can hold of attributes, and how each is stored.

Plain are numbers, text, bytes, None, and lists and tuples of them: what is read out of a checkpoint runs no code and
imports nothing, and is no part of what PyTorch and Lightning load of it. An object that can be made anew is stored by
what is in it. One that cannot is stored by what has changed of it, and is to be there already when training goes on.
"""

from __future__ import annotations

import io
import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from types import BuiltinFunctionType, FunctionType, SimpleNamespace
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim.own_generators import OwnGenerators, is_generator
from lightning_shim.resuming import has_state

Plain = Any
"""A plain value; a tuple of them that begins with the name of a kind stands for an object."""

ABSENT: Final = object()
"""Stands where there is nothing."""

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})

_FACTORIES: Final[dict[str, Any]] = {
    "": None,
    **{factory.__name__: factory for factory in (bool, int, float, str, list, dict, set)},
}
"""What a ``defaultdict`` that is made anew may have."""


class CannotKeepError(Exception):
    """A value is none that can be kept, or restored; the message is where it is."""


class KnownObjects:
    """Objects that are saved elsewhere, or made by others: they are stored by their names.

    Args:
        named: The objects by names that are the same in each process.
        tensors: Parameters and buffers by such names. A tensor that shows a part of one is stored as that.
        device: The device of the module.
    """

    def __init__(self, named: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device) -> None:
        self.by_name: Final[dict[str, Any]] = {**named, **tensors}
        self.device: Final = device
        self._names: Final = {id(entry): name for name, entry in self.by_name.items()}
        self._names_by_storage: Final = {
            pointer: name for name, entry in tensors.items() if (pointer := _storage_of(entry)) is not None
        }

    def name(self, value: Any) -> str | None:
        """Returns the name of an object, or None if it is none of them."""
        return self._names.get(id(value))

    def name_of_storage(self, tensor: Tensor) -> str | None:
        """Returns the name of the tensor that shares its storage with another one, or None if none does."""
        pointer = _storage_of(tensor)
        name = None if pointer is None else self._names_by_storage.get(pointer)
        return name if name is not None and self.by_name[name].dtype == tensor.dtype else None


def _storage_of(tensor: Tensor) -> int | None:
    return (tensor.untyped_storage().data_ptr() or None) if _is_usual_tensor(tensor) else None


def _is_usual_tensor(tensor: Tensor) -> bool:
    """Tells whether a tensor is nothing but numbers in memory."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.device.type != "meta"
    )


class Packs(Protocol):
    """Turns values into plain ones; :class:`lightning_shim.plain_values.Packer` does."""

    @property
    def known(self) -> KnownObjects:
        """What is stored by its name."""

    @property
    def contents_of(self) -> Callable[[bytes], bytes]:
        """Says what to store of the contents of tensors and arrays."""

    def pack(self, value: Any, path: str) -> Plain:
        """Turns one value, which is at a path, into a plain one."""


class Unpacks(Protocol):
    """Turns plain values into what they were; :class:`lightning_shim.plain_values.Unpacker` does."""

    @property
    def known(self) -> KnownObjects:
        """What is stored by its name."""

    def unpack(self, plain: Plain, present: Any, path: str) -> Any:
        """Turns one plain value into what it was; ``present`` is at the path now."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How objects of one kind are stored.

    Attributes:
        pack: Turns what is in an object into a plain value.
        fits: Tells whether an object that is there can take what was stored.
        make: Makes an object; None if only one that is there can take it. Whatever is in it may come by ``fill``.
        fill: Puts what was stored into an object; None if ``make`` does, or there is nothing to be changed.
    """

    pack: Callable[[Packs, Any, str], Plain]
    fits: Callable[[Any, Plain], bool]
    make: Callable[[Unpacks, Plain, Any, str], Any] | None = None
    fill: Callable[[Unpacks, Any, Plain, Any, str], None] | None = None


def _has_type(cls: type) -> Callable[[Any, Plain], bool]:
    return lambda value, contents: type(value) is cls


def _never(value: Any, contents: Plain) -> bool:
    return False


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# Containers.


def _pack_entries(packer: Packs, value: Any, path: str) -> list[Plain]:
    return [
        entry if type(entry) in PLAIN_TYPES else packer.pack(entry, f"{path}[{index}]")
        for index, entry in enumerate(value)
    ]


def _entries(unpacker: Unpacks, contents: list[Plain], present: Any, path: str) -> list[Any]:
    there = list(present) if isinstance(present, (list, tuple, deque)) else []
    there += [ABSENT] * (len(contents) - len(there))
    return [
        unpacker.unpack(plain, now, f"{path}[{index}]")
        for index, (plain, now) in enumerate(zip(contents, there, strict=False))
    ]


def _fill_list(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    value[:] = _entries(unpacker, contents, present, path)


def _fill_set(unpacker: Unpacks, value: set[Any], contents: Plain, present: Any, path: str) -> None:
    entries = _entries(unpacker, contents, ABSENT, path)
    value.clear()
    value.update(entries)


def _fill_deque(unpacker: Unpacks, value: deque[Any], contents: Plain, present: Any, path: str) -> None:
    entries = _entries(unpacker, contents[1], present, path)
    value.clear()
    value.extend(entries)


def _pack_items(packer: Packs, value: Mapping[Any, Any], path: str) -> list[Plain]:
    return [
        (packer.pack(key, f"{path}.key({index})"), packer.pack(entry, _path_of(path, key, index)))
        for index, (key, entry) in enumerate(value.items())
    ]


def _fill_items(unpacker: Unpacks, value: dict[Any, Any], contents: Plain, present: Any, path: str) -> None:
    there = present if isinstance(present, dict) else {}
    items = {}
    for index, (plain_key, plain) in enumerate(contents):
        key = unpacker.unpack(plain_key, ABSENT, path)
        items[key] = unpacker.unpack(plain, dict.get(there, key, ABSENT), _path_of(path, key, index))
    value.clear()
    value.update(items)


def _path_of(path: str, key: Any, index: int) -> str:
    return f"{path}[{key!r}]" if type(key) in PLAIN_TYPES else f"{path}[{index}]"


def _factory_name(value: defaultdict[Any, Any]) -> str:
    return getattr(value.default_factory, "__name__", "")


def _make_default_dict(unpacker: Unpacks, contents: Plain, present: Any, path: str) -> Any:
    return defaultdict(_FACTORIES[contents[0]])


def _fill_default_dict(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    _fill_items(unpacker, value, contents[1], present, path)


# Numbers.


def _pack_tensor(packer: Packs, value: Tensor, path: str) -> Plain:
    name = packer.known.name_of_storage(value)
    if name is not None:
        # Whoever changes one changes the other.
        return name, tuple(value.shape), value.stride(), value.storage_offset()
    numbers = value.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    contents = packer.contents_of(numbers.view(torch.uint8).numpy().tobytes())
    place = "" if value.device == packer.known.device else str(value.device)
    trains = value.is_leaf and value.requires_grad
    return type(value) is nn.Parameter, str(value.dtype), tuple(value.shape), place, trains, contents


def _fits_tensor(value: Any, contents: Plain) -> bool:
    if not isinstance(value, Tensor) or len(contents) == 4:
        return False
    is_parameter, dtype, shape, _, _, _ = contents
    is_alike = (type(value) is nn.Parameter) is is_parameter and (str(value.dtype), tuple(value.shape)) == (
        dtype,
        shape,
    )
    return bool(is_alike) and _is_usual_tensor(value)


def _make_tensor(unpacker: Unpacks, contents: Plain, present: Any, path: str) -> Any:
    if len(contents) == 4:
        name, shape, stride, offset = contents
        base = unpacker.known.by_name.get(name)
        return ABSENT if base is None else base.detach().as_strided(shape, stride, offset)
    is_parameter, _, _, place, trains, _ = contents
    device = unpacker.known.device if not place or not _is_available(place) else torch.device(place)
    numbers = _numbers_of_tensor(contents).to(device)
    return nn.Parameter(numbers, trains) if is_parameter else numbers.requires_grad_(trains)


def _is_available(place: str) -> bool:
    device = torch.device(place)
    return device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()


def _numbers_of_tensor(contents: Plain) -> Tensor:
    _, name, shape, _, _, numbers = contents
    dtype = getattr(torch, name.removeprefix("torch."))
    # An empty buffer is refused.
    return (
        torch.frombuffer(bytearray(numbers), dtype=dtype).reshape(shape) if numbers else torch.empty(shape, dtype=dtype)
    )


def _fill_tensor(unpacker: Unpacks, value: Tensor, contents: Plain, present: Any, path: str) -> None:
    if value is present:
        with torch.no_grad():
            value.copy_(_numbers_of_tensor(contents))
        if value.is_leaf:
            value.requires_grad_(contents[4])


def _pack_array(packer: Packs, value: Any, path: str) -> bytes:
    # NumPy's own format; it knows byte order, fields and which axis comes first.
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return packer.contents_of(stream.getvalue())


def _read_array(contents: bytes) -> Any:
    return np.load(io.BytesIO(contents), allow_pickle=False)


def _fits_array(value: Any, contents: Plain) -> bool:
    if type(value) is not np.ndarray or not value.flags.writeable:
        return False
    array = _read_array(contents)
    return bool(value.shape == array.shape and value.dtype == array.dtype)


def _fill_array(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    if value is present:
        value[...] = _read_array(contents)


def _pack_device(packer: Packs, value: torch.device, path: str) -> str:
    return "" if value == packer.known.device else str(value)


# Objects with something of their own.


def _pack_generator(packer: Packs, value: Any, path: str) -> Plain:
    states = OwnGenerators({"holder": SimpleNamespace(generator=value)}).capture()
    return _name_of(type(value)), str(getattr(value, "device", "cpu")), packer.pack(states, f"{path}.state")


def _make_generator(unpacker: Unpacks, contents: Plain, present: Any, path: str) -> Any:
    _, device, states = contents
    if device != "cpu":
        return ABSENT
    holder = SimpleNamespace()
    OwnGenerators({"holder": holder}).restore(unpacker.unpack(states, ABSENT, path))
    return holder.generator


def _fill_generator(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    if value is present:
        states = unpacker.unpack(contents[2], ABSENT, path)
        OwnGenerators({"holder": SimpleNamespace(generator=value)}).restore(states)


def _fits_class(value: Any, contents: Plain) -> bool:
    return bool(_name_of(type(value)) == contents[0])


def _pack_state(packer: Packs, value: Any, path: str) -> Plain:
    try:
        state = value.state_dict()
    except Exception as error:
        # It may be a method of another meaning, which wants arguments.
        raise CannotKeepError(path) from error
    return _name_of(type(value)), packer.pack(state, f"{path}.state_dict()")


def _fill_state(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    value.load_state_dict(unpacker.unpack(contents[1], value.state_dict(), f"{path}.state_dict()"))


def _pack_object(packer: Packs, value: Any, path: str) -> Plain:
    return _name_of(type(value)), [(name, packer.pack(entry, f"{path}.{name}")) for name, entry in vars(value).items()]


def _fill_object(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    # Past __setattr__, which may do more than that.
    attributes = vars(value)
    entries = {
        name: unpacker.unpack(plain, attributes.get(name, ABSENT), f"{path}.{name}") for name, plain in contents[1]
    }
    attributes.clear()
    attributes.update(entries)


def _reference(value: Any) -> tuple[str, str]:
    """Returns where a class, a function or a member of an enumeration is found: its module, and its name there."""
    owner = type(value) if isinstance(value, Enum) else value
    name = getattr(owner, "__qualname__", "")
    return str(owner.__module__), f"{name}.{value.name}" if isinstance(value, Enum) else name


def _referred(reference: tuple[str, str]) -> Any:
    """Returns what a reference is of; nothing is imported for it."""
    module_name, name = reference
    found: Any = sys.modules.get(module_name, ABSENT)
    for part in name.split("."):
        found = getattr(found, part, ABSENT)
    return found


def _makes(make: Callable[[], Any]) -> Callable[[Unpacks, Plain, Any, str], Any]:
    return lambda unpacker, contents, present, path: make()


def _of_entries(cls: type) -> Callable[[Unpacks, Plain, Any, str], Any]:
    return lambda unpacker, contents, present, path: cls(_entries(unpacker, contents, present, path))


def _from(make: Callable[[Any], Any]) -> Callable[[Unpacks, Plain, Any, str], Any]:
    return lambda unpacker, contents, present, path: make(contents)


KINDS: Final[dict[str, Kind]] = {
    "list": Kind(_pack_entries, _has_type(list), _makes(list), _fill_list),
    "tuple": Kind(_pack_entries, _never, _of_entries(tuple)),
    "size": Kind(_pack_entries, _never, _of_entries(torch.Size)),
    "set": Kind(_pack_entries, _has_type(set), _makes(set), _fill_set),
    "frozenset": Kind(_pack_entries, _never, _of_entries(frozenset)),
    "deque": Kind(
        lambda packer, value, path: (value.maxlen, _pack_entries(packer, value, path)),
        lambda value, contents: type(value) is deque and value.maxlen == contents[0],
        _from(lambda contents: deque(maxlen=contents[0])),
        _fill_deque,
    ),
    "dict": Kind(_pack_items, _has_type(dict), _makes(dict), _fill_items),
    "ordered dict": Kind(_pack_items, _has_type(OrderedDict), _makes(OrderedDict), _fill_items),
    "counter": Kind(_pack_items, _has_type(Counter), _makes(Counter), _fill_items),
    "default dict": Kind(
        lambda packer, value, path: (_factory_name(value), _pack_items(packer, value, path)),
        _has_type(defaultdict),
        _make_default_dict,
        _fill_default_dict,
    ),
    "other list": Kind(_pack_entries, lambda value, contents: isinstance(value, list), None, _fill_list),
    "other dict": Kind(_pack_items, lambda value, contents: isinstance(value, dict), None, _fill_items),
    "complex": Kind(lambda packer, value, path: (value.real, value.imag), _never, _from(lambda pair: complex(*pair))),
    "bytearray": Kind(
        lambda packer, value, path: bytes(value),
        _has_type(bytearray),
        _from(bytearray),
        lambda unpacker, value, contents, present, path: value.__setitem__(slice(None), contents),
    ),
    "tensor": Kind(_pack_tensor, _fits_tensor, _make_tensor, _fill_tensor),
    "array": Kind(_pack_array, _fits_array, _from(_read_array), _fill_array),
    "scalar": Kind(_pack_array, _never, _from(lambda contents: _read_array(contents)[()])),
    "dtype": Kind(
        lambda packer, value, path: str(value), _never, _from(lambda name: getattr(torch, name.removeprefix("torch.")))
    ),
    "device": Kind(
        _pack_device,
        _never,
        lambda unpacker, contents, present, path: torch.device(contents) if contents else unpacker.known.device,
    ),
    "named": Kind(lambda packer, value, path: _reference(value), _never, _from(_referred)),
    "generator": Kind(_pack_generator, _fits_class, _make_generator, _fill_generator),
    "with state": Kind(_pack_state, _fits_class, None, _fill_state),
    "object": Kind(_pack_object, _fits_class, None, _fill_object),
}
"""By the names that stand in checkpoints."""

_NAMES_BY_TYPE: Final[dict[type, str]] = {
    list: "list",
    tuple: "tuple",
    torch.Size: "size",
    set: "set",
    frozenset: "frozenset",
    deque: "deque",
    dict: "dict",
    OrderedDict: "ordered dict",
    Counter: "counter",
    defaultdict: "default dict",
    complex: "complex",
    bytearray: "bytearray",
    Tensor: "tensor",
    nn.Parameter: "tensor",
    np.ndarray: "array",
    torch.dtype: "dtype",
    torch.device: "device",
}

_UNUSUAL: Final[dict[str, tuple[Callable[[Any], bool], str | None]]] = {
    "tensor": (_is_usual_tensor, None),
    "array": (lambda array: not array.dtype.hasobject, None),
    "default dict": (lambda value: _FACTORIES.get(_factory_name(value), ABSENT) is value.default_factory, "other dict"),
}
"""For kinds that not every object of its type belongs to: whether one does, and which kind it is otherwise."""

_BY_NATURE: Final[dict[str, Callable[[Any], bool]]] = {
    "scalar": lambda value: isinstance(value, np.generic),
    "generator": is_generator,
    "other dict": lambda value: isinstance(value, dict),
    "other list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, nn.Module),
    "with state": has_state,
}
"""For other objects: which kind one belongs to; the first that says so counts."""


def kind_of(value: Any, is_users: Callable[[type], bool]) -> str | None:
    """Says how a value is stored.

    Args:
        value: A value that is not plain.
        is_users: Whether a class is the user's own, whose objects are what is in their attributes.

    Returns:
        The name of its kind, or None if it cannot be stored.
    """
    name = _NAMES_BY_TYPE.get(type(value))
    if name is not None:
        is_usual, otherwise = _UNUSUAL.get(name, (None, None))
        return name if is_usual is None or is_usual(value) else otherwise
    if isinstance(value, (type, FunctionType, BuiltinFunctionType, Enum)):
        return "named" if _referred(_reference(value)) is value else None
    if isinstance(value, (Dataset, DataLoader, Sampler)):
        return None
    return next((name for name, belongs in _BY_NATURE.items() if belongs(value)), None) or (
        "object" if hasattr(value, "__dict__") and is_users(type(value)) else None
    )
