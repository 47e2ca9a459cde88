"""Turns values that objects have as attributes into plain ones that a checkpoint can hold, and back."""

from __future__ import annotations

import sys
import sysconfig
import weakref
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Final

from lightning_shim.checkpoint.kind import ABSENT, PLAIN_TYPES, CannotKeepError, Plain
from lightning_shim.checkpoint.known_objects import KnownObjects
from lightning_shim.checkpoint.value_kinds import KINDS, kind_of
from lightning_shim.diagnostics.locations import FRAMEWORK_PACKAGES

_PATHS_OF_PACKAGES: Final = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class FirstObjects:
    """Remembers which object was where when training began, and keeps none of them alive that can go without."""

    def __init__(self) -> None:
        self._references: Final[dict[str, Callable[[], Any]]] = {}

    def add(self, path: str, value: Any) -> None:
        """Remembers an object.

        Args:
            path: Where it is.
            value: The object.
        """
        try:
            self._references[path] = weakref.ref(value)
        except TypeError:
            self._references[path] = lambda: value

    def has(self, path: str, value: Any) -> bool:
        """Tells whether an object is the one that was there."""
        reference = self._references.get(path)
        return reference is not None and reference() is value


class Packer:
    """Turns values into plain ones.

    Args:
        known: What is stored by its name.
        first: Which objects were where when training began.
        is_first: Whether that is now.
        packages: The packages whose classes are the user's wherever they are installed.
        contents_of: What to store of the contents of tensors and arrays.
    """

    def __init__(
        self,
        known: KnownObjects,
        first: FirstObjects,
        is_first: bool,
        packages: frozenset[str],
        contents_of: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.known: Final = known
        self.contents_of: Final = contents_of
        self._first: Final = first
        self._is_first: Final = is_first
        self._packages: Final = packages
        # By identity, hence kept alive.
        self._packed: Final[dict[int, tuple[int, Any]]] = {}

    def pack(self, value: Any, path: str) -> Plain:
        """Turns one value into a plain one.

        Args:
            value: The value.
            path: Where it is, such as ``"losses[3]"``.

        Returns:
            The plain one.

        Raises:
            CannotKeepError: If it, or something in it, is another object than when training began, and one that
                cannot be made anew.
        """
        if type(value) in PLAIN_TYPES:
            return value
        name = self.known.name(value)
        if name is not None:
            return ("known", name)
        if type(value) is MethodType:
            owner = self.known.name(value.__self__)
            if owner is not None and getattr(type(value.__self__), value.__name__, None) is value.__func__:
                return ("method", owner, value.__name__)
        if id(value) in self._packed:
            return ("shared", self._packed[id(value)][0])
        if self._is_first:
            self._first.add(path, value)
        is_same = self._is_first or self._first.has(path, value)
        name = kind_of(value, self._is_users)
        if name is None or (KINDS[name].make is None and not is_same):
            if is_same:
                return ("left",)
            raise CannotKeepError(path)
        number = len(self._packed)
        self._packed[id(value)] = number, value
        return (name, number, is_same, KINDS[name].pack(self, value, path))

    def _is_users(self, cls: type) -> bool:
        package = cls.__module__.partition(".")[0]
        if package in FRAMEWORK_PACKAGES:
            return False
        if package in self._packages:
            return True
        file = getattr(sys.modules.get(cls.__module__), "__file__", None)
        return package == "__main__" or (file is not None and not file.startswith(_PATHS_OF_PACKAGES))


class Unpacker:
    """Turns plain values into what they were, in the objects that are there if they were the same ones before.

    Args:
        known: What is stored by its name.
    """

    def __init__(self, known: KnownObjects) -> None:
        self.known: Final = known
        self._made: Final[dict[int, Any]] = {}

    def unpack(self, plain: Plain, present: Any, path: str) -> Any:
        """Turns a plain value into what it was.

        Args:
            plain: What :meth:`Packer.pack` returned.
            present: What is there now, or ``ABSENT``.
            path: Where that is.

        Returns:
            The value.

        Raises:
            CannotKeepError: If something is not there that cannot be made.
        """
        if type(plain) is not tuple:
            return plain
        if plain[0] == "known":
            return self._found(self.known.by_name, plain[1], path)
        if plain[0] == "method":
            return getattr(self._found(self.known.by_name, plain[1], path), plain[2])
        if plain[0] == "shared":
            return self._found(self._made, plain[1], path)
        if plain[0] == "left":
            if present is ABSENT:
                raise CannotKeepError(path)
            return present
        name, number, was_same, contents = plain
        kind = KINDS[name]
        value = ABSENT
        if was_same and present is not ABSENT and kind.fits(present, contents):
            value = present
        elif kind.make is not None:
            value = kind.make(self, contents, present, path)
        if value is ABSENT:
            raise CannotKeepError(path)
        self._made[number] = value
        if kind.fill is not None:
            kind.fill(self, value, contents, present, path)
        return value

    @staticmethod
    def _found(objects: Mapping[Any, Any], key: Any, path: str) -> Any:
        if key not in objects:
            raise CannotKeepError(path)
        return objects[key]
