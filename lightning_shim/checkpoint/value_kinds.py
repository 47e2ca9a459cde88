"""The kinds of values that a checkpoint can hold of attributes, and which kind a value is of."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from enum import Enum
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from lightning_shim.checkpoint.container_kinds import CONTAINERS, factory_is_known
from lightning_shim.checkpoint.kind import Kind
from lightning_shim.checkpoint.known_objects import is_usual_tensor
from lightning_shim.checkpoint.number_kinds import NUMBERS
from lightning_shim.checkpoint.object_kinds import OBJECTS, is_named
from lightning_shim.data.tracked_loader import has_state
from lightning_shim.session.own_generators import is_generator

KINDS: Final[dict[str, Kind]] = CONTAINERS | NUMBERS | OBJECTS
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
    "tensor": (is_usual_tensor, None),
    "array": (lambda array: not array.dtype.hasobject, None),
    "default dict": (factory_is_known, "other dict"),
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
        return "named" if is_named(value) else None
    if isinstance(value, (Dataset, DataLoader, Sampler)):
        return None
    return next((name for name, belongs in _BY_NATURE.items() if belongs(value)), None) or (
        "object" if hasattr(value, "__dict__") and is_users(type(value)) else None
    )
