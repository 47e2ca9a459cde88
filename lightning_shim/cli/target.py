"""Finds the classes that a target on the command line names."""

from __future__ import annotations

import importlib
import os
import pathlib
import sys
import traceback
from collections.abc import Callable
from types import ModuleType, TracebackType
from typing import Any


class TargetError(Exception):
    """There is nothing that can be checked; the message says why."""


def subjects_of(target: str, is_inspectable: Callable[[Any], bool]) -> list[Any]:
    """Imports what is to be checked."""
    name, _, attribute = target.partition(":")
    module = _imported(name)
    if not attribute:
        subjects = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__ and is_inspectable(value)
        ]
        if not subjects:
            raise TargetError(f"{name} defines no LightningModule, LightningDataModule or Callback.")
        return list(dict.fromkeys(subjects))
    subject: Any = module
    for part in attribute.split("."):
        if not hasattr(subject, part):
            raise TargetError(f"{name} has no {attribute}.")
        subject = getattr(subject, part)
    if not is_inspectable(subject):
        raise TargetError(f"{target} is not a LightningModule, LightningDataModule or Callback.")
    return [subject]


def _imported(name: str) -> ModuleType:
    """Imports a module, by its name or by the path of its file."""
    # As for python -m; a script that is called otherwise would not find it.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    path = pathlib.Path(name).resolve() if name.endswith(".py") else None
    if path is not None:
        if not path.is_file():
            raise TargetError(f"there is no file {name}.")
        name = _module_name(path)
    try:
        module = importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        users_part = _users_part(error.__traceback__)
        if isinstance(error, ModuleNotFoundError) and users_part is None:
            raise TargetError(f"there is no module {name}.") from error
        traceback.print_exception(type(error), error, users_part)
        raise TargetError(f"{name} cannot be imported: {type(error).__name__}: {error}") from error
    if path is not None and path != pathlib.Path(module.__file__ or "").resolve():
        raise TargetError(f"{path} cannot be imported, since there is another module {name}: {module.__file__}.")
    return module


def _module_name(path: pathlib.Path) -> str:
    """Returns the name by which a file can be imported, as a part of its package if it is in one."""
    parts = [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    sys.path.insert(0, str(folder))
    return ".".join(parts)


def _users_part(frames: TracebackType | None) -> TracebackType | None:
    """Leaves out the frames of this file and of Python's import."""
    while frames is not None:
        filename = frames.tb_frame.f_code.co_filename
        if filename != __file__ and not filename.startswith("<frozen importlib") and filename != importlib.__file__:
            return frames
        frames = frames.tb_next
    return None
