"""Imports files as a user might have written them."""

from __future__ import annotations

import importlib.util
import textwrap
from pathlib import Path
from types import ModuleType


def import_file(path: Path, name: str | None = None) -> ModuleType:
    """Imports a file anew, by a name that is the file's if none is given, and leaves it out of ``sys.modules``."""
    specification = importlib.util.spec_from_file_location(name or path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def load(path: Path, source: str) -> ModuleType:
    """Writes a file, and imports it."""
    path.write_text(textwrap.dedent(source))
    return import_file(path)
