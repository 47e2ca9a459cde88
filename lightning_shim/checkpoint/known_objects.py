"""Objects that a checkpoint's attributes name, and do not hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn


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
    return (tensor.untyped_storage().data_ptr() or None) if is_usual_tensor(tensor) else None


def is_usual_tensor(tensor: Tensor) -> bool:
    """Tells whether a tensor is nothing but numbers in memory."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_quantized
        and tensor.device.type != "meta"
    )
