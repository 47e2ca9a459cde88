"""The list of patched class attributes, by which they are restored. It knows nothing of Lightning or Determined."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lightning_shim.diagnostics.errors import PatchError, PatchWarning
from lightning_shim.diagnostics.warn import warn_at_caller

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""A function that wrapt calls in place of a method, with the method, its instance, ``args`` and ``kwargs``."""

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class _Entry:
    owner: type
    name: str
    original: object
    """The owner's own ``__dict__`` entry, or ``_MISSING`` if the attribute was inherited."""
    installed: object

    def is_on_top(self) -> bool:
        present = vars(self.owner).get(self.name, _MISSING)
        # Somebody who saved `Class.method` before patching, and assigned it again afterwards, has put back the wrapper
        # that wrapt binds on access; its `_self_parent` is ours.
        return present is self.installed or getattr(present, "_self_parent", _MISSING) is self.installed

    def is_gone(self) -> bool:
        return vars(self.owner).get(self.name, _MISSING) is self.original

    def restore(self) -> None:
        if self.original is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.original)


class PatchRegistry:
    """Replaces attributes of classes, each at most once, and restores the very same objects.

    It restores entries of ``__dict__`` rather than the results of ``getattr``, so that inherited attributes are
    inherited again, and class methods, static methods and properties are again what they were.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self._entries: dict[tuple[type, str], _Entry] = {}

    def wrap(self, owner: type, name: str, make_replacement: Callable[[Any], object]) -> None:
        """Replaces ``owner.name``, the class's own or an inherited one, unless this registry has replaced it already.

        The new entry is made from the present one as it is in the ``__dict__`` of the class that defines it (a
        function, ``classmethod``, ``property``, ...).
        """
        with self.lock:
            entry = self._entries.get((owner, name))
            if entry is not None and not entry.is_gone():
                return
            present = next((vars(base)[name] for base in owner.__mro__ if name in vars(base)), _MISSING)
            if present is _MISSING:
                raise PatchError(f"{_qualified(owner, name)} cannot be patched: there is no such attribute.")
            original = vars(owner).get(name, _MISSING)
            try:
                replacement = make_replacement(present)
                setattr(owner, name, replacement)
            except Exception as error:
                raise PatchError(f"{_qualified(owner, name)} cannot be patched: {error}") from error
            self._entries[owner, name] = _Entry(owner, name, original, replacement)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Undoes the replacements of a ``with`` block if an exception leaves it."""
        with self.lock:
            before = set(self._entries)
            try:
                yield
            except BaseException:
                self._revert(self._entries.keys() - before)
                raise

    def revert(self) -> None:
        """Restores every entry, the last replaced first.

        An entry that somebody else has patched since stays as it is, since restoring it would destroy their patch. It
        is warned about, and a later call restores it once the other patch is gone.
        """
        with self.lock:
            for entry in self._revert(self._entries.keys()):
                warn_at_caller(
                    f"{_qualified(entry.owner, entry.name)} has been patched again by somebody else "
                    f"({vars(entry.owner).get(entry.name)!r}), so it is left in place. Undo that "
                    "patch first, then call lightning_shim.unpatch() again.",
                    PatchWarning,
                )

    def _revert(self, keys: Collection[tuple[type, str]]) -> list[_Entry]:
        """Restores entries, and returns those that somebody else's patch covers."""
        covered = []
        for key in [key for key in reversed(self._entries) if key in keys]:
            entry = self._entries[key]
            if entry.is_on_top():
                entry.restore()
                del self._entries[key]
            elif entry.is_gone():
                del self._entries[key]
            else:
                covered.append(entry)
        return covered


def _qualified(owner: type, name: str) -> str:
    return f"{owner.__module__}.{owner.__qualname__}.{name}"
