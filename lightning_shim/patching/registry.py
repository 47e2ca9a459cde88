"""An undo list of patched class attributes; knows neither Lightning nor what the replacements do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final

from lightning_shim.diagnostics.errors import PatchError, PatchWarning
from lightning_shim.diagnostics.warn import warn_at_caller

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""What wrapt calls in the place of a method: with the method, its object, and the arguments."""

_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class _Entry:
    owner: type
    name: str
    original: object
    """The owner's own ``__dict__`` entry, or ``_MISSING`` where the attribute was inherited."""
    installed: object

    def is_on_top(self) -> bool:
        present = vars(self.owner).get(self.name, _MISSING)
        # Somebody who puts back what getattr gave puts back wrapt's bound wrapper, whose `_self_parent` is ours.
        return present is self.installed or getattr(present, "_self_parent", _MISSING) is self.installed

    def is_gone(self) -> bool:
        return vars(self.owner).get(self.name, _MISSING) is self.original

    def restore(self) -> None:
        if self.original is _MISSING:
            delattr(self.owner, self.name)
        else:
            setattr(self.owner, self.name, self.original)


class PatchRegistry:
    """Replaces entries of classes, each at most once, and restores them by identity.

    Restoring ``__dict__`` entries, rather than what ``getattr`` gives, keeps inherited attributes inherited, and class
    methods, static methods and properties what they were.
    """

    def __init__(self) -> None:
        self.lock: Final = threading.RLock()
        self._entries: dict[tuple[type, str], _Entry] = {}

    def wrap(self, owner: type, name: str, make_replacement: Callable[[Any], object]) -> None:
        """Replaces ``owner.name``, unless this registry has replaced it already.

        Args:
            owner: The class.
            name: The attribute, the class's own or an inherited one.
            make_replacement: Gets the present entry as it stands in the ``__dict__`` of the class that has it
                (a function, ``classmethod``, ``property``, ...) and returns what is to stand there instead.

        Raises:
            PatchError: If the class has no such attribute, or the replacement cannot be made or set.
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
        """Makes the replacements of a ``with`` block all or nothing: an exception undoes those made in it."""
        with self.lock:
            before = set(self._entries)
            try:
                yield
            except BaseException:
                self._revert(self._entries.keys() - before)
                raise

    def revert(self) -> None:
        """Undoes every replacement, the last one first.

        An entry that somebody else has patched since is left as it is, since undoing ours would destroy theirs: this is
        warned about, and the entry is restored by a later call, once theirs is gone.
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
        """Restores what can be restored, and returns the rest."""
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
