"""Tensors, arrays, and what describes them, as a checkpoint can hold them of attributes."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from lightning_shim.checkpoint.kind import ABSENT, Kind, Packs, Plain, Unpacks, from_contents, has_type, never
from lightning_shim.checkpoint.known_objects import is_usual_tensor


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
    return bool(is_alike) and is_usual_tensor(value)


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


NUMBERS: Final[dict[str, Kind]] = {
    "tensor": Kind(_pack_tensor, _fits_tensor, _make_tensor, _fill_tensor),
    "array": Kind(_pack_array, _fits_array, from_contents(_read_array), _fill_array),
    "scalar": Kind(_pack_array, never, from_contents(lambda contents: _read_array(contents)[()])),
    "complex": Kind(
        lambda packer, value, path: (value.real, value.imag), never, from_contents(lambda pair: complex(*pair))
    ),
    "bytearray": Kind(
        lambda packer, value, path: bytes(value),
        has_type(bytearray),
        from_contents(bytearray),
        lambda unpacker, value, contents, present, path: value.__setitem__(slice(None), contents),
    ),
    "dtype": Kind(
        lambda packer, value, path: str(value),
        never,
        from_contents(lambda name: getattr(torch, name.removeprefix("torch."))),
    ),
    "device": Kind(
        _pack_device,
        never,
        lambda unpacker, contents, present, path: torch.device(contents) if contents else unpacker.known.device,
    ),
}
"""Numbers in bulk and what describes them, by the names that stand in checkpoints."""
