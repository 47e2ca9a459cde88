"""Determined's TensorBoard writer, created without what others need to be imported for it."""

from __future__ import annotations

import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any, Final

from lightning_shim.upstream.determined.context import is_on_cluster

_LOADING: Final = threading.RLock()


def spare_imports(context: Any) -> None:
    """Has a context create its TensorBoard writer without setuptools, and off-cluster without boto3.

    Determined imports ``distutils`` for torch 1.9 and 1.10, and with it comes setuptools. Either of them takes longer
    to import than all of Determined. On a cluster checkpoints may be in S3, and boto3 is needed anyway.
    """

    def get_tensorboard_writer() -> Any:
        if context._tbd_writer is None:
            if not is_on_cluster():
                _load_when_used("boto3")
            from torch.utils.tensorboard import SummaryWriter

            context._tbd_writer = SummaryWriter(context.get_tensorboard_path())
        return context._tbd_writer

    context.get_tensorboard_writer = get_tensorboard_writer


def _load_when_used(name: str) -> None:
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
