"""Packages that run when they are used, rather than when they are imported."""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any, Final

_LOADING: Final = threading.RLock()


def load_when_used(name: str) -> None:
    """Puts off running a package until somebody asks for something of it, if it is installed and not imported yet.

    ``importlib.util.LazyLoader`` would run it as soon as it is imported once more.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is not None:
        module = importlib.util.module_from_spec(spec)
        module.__class__ = _LoadedWhenUsed
        sys.modules[name] = module


class _LoadedWhenUsed(ModuleType):
    _is_due = True

    def __getattr__(self, name: str) -> Any:
        with _LOADING:
            if self._is_due:
                self._is_due = False
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                self.__spec__.loader.exec_module(self)
        return ModuleType.__getattribute__(self, name)
