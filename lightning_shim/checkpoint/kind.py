"""What a kind of values is that a checkpoint can hold of attributes.

Plain are numbers, text, bytes, None, and lists and tuples of them: what is read out of a checkpoint runs no code and
imports nothing, and is no part of what PyTorch and Lightning load of it. An object that can be made anew is stored by
what is in it. One that cannot is stored by what has changed of it, and is to be there already when training goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from lightning_shim.checkpoint.known_objects import KnownObjects

Plain = Any
"""A plain value; a tuple of them that begins with the name of a kind stands for an object."""

ABSENT: Final = object()
"""Stands where there is nothing."""

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, bytes})


class CannotKeepError(Exception):
    """A value is none that can be kept, or restored; the message is where it is."""


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


def has_type(cls: type) -> Callable[[Any, Plain], bool]:
    """Returns what tells whether an object is of a class and of none derived from it."""
    return lambda value, contents: type(value) is cls


def never(value: Any, contents: Plain) -> bool:
    """Tells that an object that is there cannot take what was stored: it is one that does not change."""
    return False


def from_contents(make: Callable[[Any], Any]) -> Callable[[Unpacks, Plain, Any, str], Any]:
    """Returns what makes an object of nothing but what was stored."""
    return lambda unpacker, contents, present, path: make(contents)


def from_nothing(make: Callable[[], Any]) -> Callable[[Unpacks, Plain, Any, str], Any]:
    """Returns what makes an object that is to be filled."""
    return lambda unpacker, contents, present, path: make()
