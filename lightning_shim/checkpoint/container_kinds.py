"""Lists, tuples, sets, dictionaries and the other containers that a checkpoint can hold of attributes."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from lightning_shim.checkpoint.kind import (
    ABSENT,
    PLAIN_TYPES,
    Kind,
    Packs,
    Plain,
    Unpacks,
    from_contents,
    from_nothing,
    has_type,
    never,
)

_FACTORIES: Final[dict[str, Any]] = {
    "": None,
    **{factory.__name__: factory for factory in (bool, int, float, str, list, dict, set)},
}
"""What a ``defaultdict`` that is made anew may have."""


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


def factory_is_known(value: defaultdict[Any, Any]) -> bool:
    """Tells whether a ``defaultdict`` can be made anew."""
    return _FACTORIES.get(_factory_name(value), ABSENT) is value.default_factory


def _make_default_dict(unpacker: Unpacks, contents: Plain, present: Any, path: str) -> Any:
    return defaultdict(_FACTORIES[contents[0]])


def _fill_default_dict(unpacker: Unpacks, value: Any, contents: Plain, present: Any, path: str) -> None:
    _fill_items(unpacker, value, contents[1], present, path)


def _of_entries(cls: type) -> Callable[[Unpacks, Plain, Any, str], Any]:
    return lambda unpacker, contents, present, path: cls(_entries(unpacker, contents, present, path))


CONTAINERS: Final[dict[str, Kind]] = {
    "list": Kind(_pack_entries, has_type(list), from_nothing(list), _fill_list),
    "tuple": Kind(_pack_entries, never, _of_entries(tuple)),
    "size": Kind(_pack_entries, never, _of_entries(torch.Size)),
    "set": Kind(_pack_entries, has_type(set), from_nothing(set), _fill_set),
    "frozenset": Kind(_pack_entries, never, _of_entries(frozenset)),
    "deque": Kind(
        lambda packer, value, path: (value.maxlen, _pack_entries(packer, value, path)),
        lambda value, contents: type(value) is deque and value.maxlen == contents[0],
        from_contents(lambda contents: deque(maxlen=contents[0])),
        _fill_deque,
    ),
    "dict": Kind(_pack_items, has_type(dict), from_nothing(dict), _fill_items),
    "ordered dict": Kind(_pack_items, has_type(OrderedDict), from_nothing(OrderedDict), _fill_items),
    "counter": Kind(_pack_items, has_type(Counter), from_nothing(Counter), _fill_items),
    "default dict": Kind(
        lambda packer, value, path: (_factory_name(value), _pack_items(packer, value, path)),
        has_type(defaultdict),
        _make_default_dict,
        _fill_default_dict,
    ),
    "other list": Kind(_pack_entries, lambda value, contents: isinstance(value, list), None, _fill_list),
    "other dict": Kind(_pack_items, lambda value, contents: isinstance(value, dict), None, _fill_items),
}
"""Containers, by the names that stand in checkpoints."""
