"""Folders that cannot be written to, found before they are needed."""

from __future__ import annotations

import os
import pathlib

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import is_rank_zero


def verify_writable(folder: str | os.PathLike[str] | None, setting: str) -> None:
    """Refuses a folder that rank 0 cannot write to, though it need not exist yet; the others write nothing.

    None, and a URL, are not looked at. ``setting`` is how the user chooses another folder.
    """
    if folder is None or "://" in os.fspath(folder) or not is_rank_zero():
        return
    path = pathlib.Path(folder).absolute()
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return
    problem = "cannot be written to" if existing.is_dir() else "is no folder"
    raise ConfigurationError(
        f"{caller_location()}: the training would write files to {path}, but {existing} {problem}. Choose another "
        f"place by {setting}, or all places at once by default_root_dir=... or the environment variable "
        "PL_TRAINER_DEFAULT_ROOT_DIR."
    )
