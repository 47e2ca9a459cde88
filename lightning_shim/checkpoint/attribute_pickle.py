"""Values of attributes as pickles that another process can read into the objects that it has.

Objects that the other process makes by itself, such as the module, its parameters, and the lists that ``__init__`` has
made, are not made again: the pickle names them, and what is in them lies beside it. Everything else is a plain pickle.
"""

from __future__ import annotations

import functools
import io
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MethodType, SimpleNamespace
from typing import Any, Final

import torch
import xxhash
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim.checkpoint.first_objects import (
    NAMED,
    PLAIN_TYPES,
    TENSORS,
    WITHOUT_IDENTITY,
    First,
    FirstObjects,
    KnownObjects,
    NotThereError,
    is_found_by_name,
    is_usual_tensor,
)
from lightning_shim.upstream.namespaces import NAMESPACES
from lightning_shim.upstream.torch import count_of_writes

NEVER_KEPT: Final = frozenset(
    {"determined", "lightning_shim", "lightning_fabric", *(name.partition(".")[0] for name in NAMESPACES)}
)
"""Packages whose objects are made anew in each process."""

_OUT_OF_BAND: Final = 64 * 1024
"""From how many bytes on numbers are tensors of their own in the checkpoint, which are written without a copy."""

_STORED_TOGETHER: Final = 4096
"""Up to how many bytes a tensor is stored in one with others of its shape."""

_CHUNK: Final = 1024
"""How many at most."""

_HASHED_WHOLLY: Final = 64 * 1024**2
"""Up to how many bytes all of a tensor is hashed."""

_SAMPLES: Final = 4096


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
        self._names: Final = known.names
        self._first: Final = first.by_identity
        self._waiting: list[tuple[First, Any]] = []
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

    def _dump_contents(self, objects: list[tuple[First, Any]]) -> None:
        alone: dict[int, Any] = {}
        # Of small tensors there may be many: those that are alike are stored in one.
        alike: dict[Any, list[int]] = {}
        for index, (first, value) in enumerate(objects):
            if first.kind == "tensor" and value.nbytes <= _STORED_TOGETHER:
                key = type(value), value.dtype, value.shape, value.get_device(), value.requires_grad
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
        name = self._names.get(identity)
        if name is not None:
            return ("known", name)
        first = self._first.get(identity)
        if first is not None and first.reference() is value:
            if identity not in self.reached:
                self.reached[identity] = value
                self._waiting.append((first, value))
            return first.path
        if cls is torch.device:
            return ("device", None if value == self._known.device else str(value))
        part = self._known.part(value) if cls in TENSORS else None
        if part is not None:
            return ("part", *part)
        if not issubclass(cls, (*NAMED, *WITHOUT_IDENTITY)):
            self.reached[identity] = value
        return None

    def reducer_override(self, value: Any) -> Any:
        """Says how an object is pickled that is not of Python's own classes."""
        cls = type(value)
        if cls in TENSORS and is_usual_tensor(value):
            return self._reduced(value)
        if cls is torch.UntypedStorage:
            every = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value)
            return _make_storage, (_bytes_of(every), value.device)
        is_kept = cls is not MethodType or is_found_by_name(value)
        if cls.__module__.partition(".")[0] in NEVER_KEPT:
            is_kept = issubclass(cls, (nn.Module, *WITHOUT_IDENTITY))
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
        """Returns a tensor's numbers; of a large one, what changes with them."""
        if tensor.nbytes <= _HASHED_WHOLLY or tensor.is_inference():
            return _bytes_of(tensor)
        # To read a gigabyte takes a tenth of a second. Writes that PyTorch does not count, as those by tensor.data, are
        # seen by the samples if they reach everywhere, as those to an average do; one of a single row is not seen.
        storage = tensor.untyped_storage()
        samples = torch.empty(0, dtype=torch.int64, device=tensor.device)
        samples.set_(storage, 0, (_SAMPLES,), (storage.nbytes() // 8 // _SAMPLES,))
        place = tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
        return count_of_writes(tensor), place, samples.cpu().numpy().tobytes()


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
        self._waiting: list[tuple[First, Any]] = []
        self._reached: Final[set[str]] = set()

    def load_with_contents(self) -> Any:
        """Returns the value, and fills the objects that were there when training began.

        Raises:
            NotThereError: If one of them is missing, or is another one; nothing is filled then.
        """
        value = self.load()
        filled: list[tuple[tuple[First, Any], Any]] = []
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
