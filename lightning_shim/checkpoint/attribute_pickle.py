"""Pickles of attribute values, which another process reads into the objects that it already has.

The other process creates some objects itself: the module, its parameters, and the lists that ``__init__`` makes. Of
these the pickle holds the name, and the contents apart from it, so that they are filled and not replaced. Whoever else
refers to such an object sees the restored contents. Everything else is pickled as usual.
"""

from __future__ import annotations

import functools
import io
import operator
import pickle
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MethodType, SimpleNamespace
from typing import Any, Final

import torch
import xxhash
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim.checkpoint.initial_objects import (
    NAMED,
    PLAIN_TYPES,
    TENSORS,
    WITHOUT_IDENTITY,
    InitialObject,
    InitialObjects,
    KnownObjects,
    MissingObjectError,
    is_found_by_name,
    is_usual_tensor,
)
from lightning_shim.checkpoint.tensor_digest import digest_on_device
from lightning_shim.session.fingerprints import samples_of
from lightning_shim.session.own_generators import set_state_of_generator, state_of_generator
from lightning_shim.upstream.namespaces import NAMESPACES
from lightning_shim.upstream.torch import count_of_writes

NEVER_KEPT: Final = frozenset(
    {"determined", "lightning_shim", "lightning_fabric", *(name.partition(".")[0] for name in NAMESPACES)}
)
"""Packages whose objects each process creates anew."""

_OUT_OF_BAND: Final = 64 * 1024
"""The size in bytes from which numbers are tensors of their own in the checkpoint, and written without a copy."""

_STORED_TOGETHER: Final = 4096
"""The size in bytes up to which tensors of one shape are stored as one."""

_CHUNK: Final = 1024
"""The most tensors that are stored as one."""

_LAYOUT: Final = operator.attrgetter("dtype", "shape", "device", "requires_grad")

_HASHED_WHOLLY: Final = 64 * 1024**2
"""The size in bytes up to which a tensor is hashed as a whole."""


def _bytes_of(tensor: Tensor) -> pickle.PickleBuffer:
    """Returns a tensor's numbers, without a copy if they are contiguous in the memory of the CPU."""
    numbers = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return pickle.PickleBuffer(numbers.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _numbers(contents: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    # torch.frombuffer refuses an empty buffer.
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


def _make_generator(device: torch.device, state: Any) -> torch.Generator:
    generator = torch.Generator(device)
    set_state_of_generator(generator, state)
    return generator


def _with_class(tensor: Tensor, requires_grad: bool, cls: type) -> Tensor:
    return nn.Parameter(tensor, requires_grad) if cls is nn.Parameter else tensor.requires_grad_(requires_grad)


class AttributePickler(pickle.Pickler):
    """Pickles the values of attributes.

    ``write`` receives the bytes, and ``take`` large buffers; it returns True to have one written as bytes instead.
    ``reached`` has the pickled objects by identity and the storages of the pickled tensors, ``storages`` the number of
    tensors on each.
    """

    def __init__(
        self,
        known: KnownObjects,
        initial: InitialObjects,
        write: Callable[[bytes], Any],
        take: Callable[[pickle.PickleBuffer], bool],
    ) -> None:
        super().__init__(SimpleNamespace(write=write), protocol=5, buffer_callback=take)
        self._known: Final = known
        self._names: Final = known.names
        self._initial: Final = initial.by_identity
        self._waiting: list[tuple[InitialObject, Any]] = []
        self.reached: Final[dict[Any, Any]] = {}
        self.storages: Final[Counter[int]] = Counter()

    def _numbers(self, tensor: Tensor) -> Any:
        """Returns the object that is pickled in place of a tensor's numbers."""
        return _bytes_of(tensor)

    def _shares_storage(self, tensor: Tensor) -> bool:
        """Whether a tensor is stored as a view of a storage that others share."""
        return False

    def _contents(self, initial: InitialObject, value: Any) -> Any:
        """Returns the object that is pickled in place of an initial object's contents."""
        return initial.contents(value)

    def dump_with_contents(self, value: Any) -> None:
        """Pickles a value, and the contents of the initial objects in it."""
        self.dump(value)
        # Contents may lead to further initial objects, whose contents follow in another round.
        while self._waiting:
            objects, self._waiting = self._waiting, []
            self._dump_contents(objects)

    def _dump_contents(self, objects: list[tuple[InitialObject, Any]]) -> None:
        alone: dict[int, Any] = {}
        # A replay buffer may hold 100,000 small tensors. Those that are alike are stacked, because pickling a tensor
        # takes far longer than copying a few numbers.
        alike: dict[Any, list[int]] = {}
        for index, (initial, value) in enumerate(objects):
            if initial.kind == "tensor" and value.nbytes <= _STORED_TOGETHER:
                key = type(value), value.dtype, value.shape, value.get_device(), value.requires_grad
                alike.setdefault(key, []).append(index)
            elif initial.kind is not None:
                alone[index] = self._contents(initial, value)
        chunks = [indices[at : at + _CHUNK] for indices in alike.values() for at in range(0, len(indices), _CHUNK)]
        self.dump((alone, len(chunks)))
        for chunk in chunks:
            tensors = [objects[index][1] for index in chunk]
            with torch.no_grad():
                stacked = torch.stack(tensors)
            # An array is one object for the pickler, and a list as many as it has entries.
            self.dump((type(tensors[0]).__qualname__, tensors[0].requires_grad, array("q", chunk), stacked))

    def persistent_id(self, value: Any) -> Any:
        """Returns the name of an object that the other process has; None for any other."""
        # Asked for every object, so that the most frequent types come first.
        cls = type(value)
        if cls in PLAIN_TYPES:
            return None
        identity = id(value)
        name = self._names.get(identity)
        if name is not None:
            return ("known", name)
        initial = self._initial.get(identity)
        # An identity may belong to another object by now, if the initial one is gone.
        if initial is not None and initial.reference() is value:
            if identity not in self.reached:
                self.reached[identity] = value
                self._waiting.append((initial, value))
            return initial.path
        if cls is torch.device:
            return ("device", None if value == self._known.device else str(value))
        part = self._known.part(value) if cls in TENSORS else None
        if part is not None:
            return ("part", *part)
        # Kept alive, or a temporary object could leave its identity to the next one, and attributes that have nothing
        # in common would seem to share it.
        if not issubclass(cls, (*NAMED, *WITHOUT_IDENTITY)):
            self.reached[identity] = value
        return None

    def reducer_override(self, value: Any) -> Any:
        """Returns how to pickle an object that is not of one of Python's own classes.

        What belongs to the process, as a dataset or an object of Lightning's own does, is refused.
        """
        cls = type(value)
        if cls in TENSORS and is_usual_tensor(value):
            return self._reduced(value)
        if cls is torch.Generator:
            # Its own pickle fails where the generator's device is not there, whose state no other can have.
            return _make_generator, (value.device, state_of_generator(value))
        if cls is torch.UntypedStorage:
            every = torch.empty(0, dtype=torch.uint8, device=value.device).set_(value)
            return _make_storage, (self._numbers(every), value.device)
        # A method is pickled by its name, which has to lead to the same one again.
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


class CheckpointPickler(AttributePickler):
    """Pickles values for a checkpoint, with large buffers apart from the pickle, over the original memory."""

    def __init__(self, known: KnownObjects, initial: InitialObjects, storages: Mapping[int, int]) -> None:
        self._stream: Final = io.BytesIO()
        self.buffers: Final[list[Tensor]] = []
        super().__init__(known, initial, self._stream.write, functools.partial(_take, self.buffers))
        # A view of an initial tensor is stored by its own numbers: the initial tensor's storage may be far larger.
        self._shared: Final = {pointer for pointer, count in storages.items() if count > 1} - initial.storages()

    def getvalue(self) -> bytes:
        """Returns the pickle."""
        return self._stream.getvalue()

    def _shares_storage(self, tensor: Tensor) -> bool:
        is_as_stored = not tensor.is_conj() and not tensor.is_neg()
        return is_as_stored and tensor.untyped_storage().data_ptr() in self._shared


def _take(buffers: list[Tensor], buffer: pickle.PickleBuffer) -> bool:
    """Keeps a large buffer out of the pickle, as a tensor over the same memory; refuses a small one."""
    raw = buffer.raw()
    if raw.readonly or raw.nbytes < _OUT_OF_BAND:
        return True
    buffers.append(torch.frombuffer(raw, dtype=torch.uint8))
    return False


class HashingPickler(AttributePickler):
    """Hashes a value's pickle, by which changes are recognised within this process. The pickle itself is not kept."""

    def __init__(self, known: KnownObjects, initial: InitialObjects) -> None:
        self._hash: Final = xxhash.xxh3_128()
        super().__init__(known, initial, self._hash.update, functools.partial(_hash, self._hash))

    def digest(self) -> bytes:
        """Returns the hash of the pickle."""
        return self._hash.digest()

    def _numbers(self, tensor: Tensor) -> Any:
        """Returns a tensor's numbers or, if they are many or on a GPU, a few values that change along with them."""
        if not tensor.is_cpu:
            return digest_on_device(tensor)
        if tensor.nbytes <= _HASHED_WHOLLY or tensor.is_inference():
            return _bytes_of(tensor)
        # Reading a gigabyte takes a tenth of a second, at each checkpoint. PyTorch's count of writes takes no time.
        # Writes that it does not count, as those to tensor.data, are noticed by samples if they go to all of a tensor,
        # as with an average. Such a write to a single row goes unnoticed.
        place = tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
        return count_of_writes(tensor), place, samples_of(tensor).numpy().tobytes()

    def _contents(self, initial: InitialObject, value: Any) -> Any:
        """Returns the contents or, of a long list of initial tensors that are alike, their identities and layout.

        Such a list is a replay buffer. To pickle the name of each entry takes longer than all the rest of a checkpoint.
        """
        if initial.kind not in ("list", "deque") or initial.has_attributes or len(value) <= _CHUNK:
            return initial.contents(value)
        tensors = list(value)
        identities = array("Q", map(id, tensors))
        are_initial = self._names.keys().isdisjoint(identities) and all(
            entry is not None and entry.kind == "tensor" and entry.reference() is tensor
            for entry, tensor in zip(map(self._initial.get, identities), tensors, strict=True)
        )
        layouts = set(map(_LAYOUT, tensors)) if are_initial else set()
        if len(layouts) != 1 or tensors[0].nbytes > _STORED_TOGETHER:
            return initial.contents(value)
        self.reached.update(zip(identities, tensors, strict=True))
        with torch.no_grad():
            for at in range(0, len(tensors), _CHUNK):
                _hash(self._hash, _bytes_of(torch.stack(tensors[at : at + _CHUNK])))
        return identities.tobytes(), layouts


def _hash(hash_: Any, buffer: pickle.PickleBuffer) -> bool:
    hash_.update(buffer.raw())
    return False


class AttributeUnpickler(pickle.Unpickler):
    """Reads the pickles of :class:`CheckpointPickler`."""

    def __init__(self, stream: bytes, buffers: list[Tensor], known: KnownObjects, initial: InitialObjects) -> None:
        super().__init__(io.BytesIO(stream), buffers=[buffer.numpy() for buffer in buffers])
        self._known: Final = known
        self._initial: Final = initial
        self._waiting: list[tuple[InitialObject, Any]] = []
        self._reached: Final[set[str]] = set()

    def load_with_contents(self) -> Any:
        """Returns the value, and fills the initial objects in it; MissingObjectError means that one is not there."""
        # Everything is read before anything is filled, so that a missing object leaves the others as they are.
        value = self.load()
        filled: list[tuple[tuple[InitialObject, Any], Any]] = []
        while self._waiting:
            objects, self._waiting = self._waiting, []
            filled += [(objects[index], contents) for index, contents in self._load_contents()]
        # Inner objects are filled first. A set or a dictionary hashes its entries, whose hash may depend on contents.
        for (initial, present), contents in reversed(filled):
            initial.fill(present, contents)
        return value

    def _load_contents(self) -> Iterator[tuple[int, Any]]:
        alone, chunks = self.load()
        yield from alone.items()
        for _ in range(chunks):
            name, requires_grad, chunk, tensors = self.load()
            for index, numbers in zip(chunk, tensors, strict=True):
                yield index, ("tensor", name, (numbers, requires_grad), None)

    def persistent_load(self, identity: Any) -> Any:
        """Returns the object of this process that has the name."""
        if isinstance(identity, str):
            initial = self._initial.by_path.get(identity)
            present = None if initial is None else initial.reference()
            if initial is None or present is None:
                raise MissingObjectError
            if identity not in self._reached:
                self._reached.add(identity)
                self._waiting.append((initial, present))
            return present
        kind, *rest = identity
        if kind == "device":
            return self._device(rest[0])
        if rest[0] not in self._known.by_name:
            raise MissingObjectError
        found = self._known.by_name[rest[0]]
        return found if kind == "known" else found.detach().as_strided(*rest[1:])

    def _device(self, name: str | None) -> torch.device:
        device = self._known.device if name is None else torch.device(name)
        is_there = device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()
        return device if is_there else self._known.device
