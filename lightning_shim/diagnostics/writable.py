"""Folders that cannot be written to, found before they are needed."""

from __future__ import annotations

import os
import pathlib

from lightning_shim.diagnostics.errors import ConfigurationError


def verify_writable(folder: str | os.PathLike[str] | None, setting: str) -> None:
    """Refuses a folder that cannot be written to. It need not exist yet, and is not created.

    Args:
        folder: The folder. None, and a URL, are not looked at.
        setting: How the user chooses another one.

    Raises:
        ConfigurationError: If it cannot be written to.
    """
    if folder is None or "://" in os.fspath(folder):
        return
    path = pathlib.Path(folder).absolute()
    existing = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if existing.is_dir() and os.access(existing, os.W_OK | os.X_OK):
        return
    problem = "cannot be written to" if existing.is_dir() else "is no folder"
    raise ConfigurationError(
        f"The training would write its files to {path}, but {existing} {problem}. Choose another place by {setting}, "
        "or all places at once by default_root_dir=... or the environment variable PL_TRAINER_DEFAULT_ROOT_DIR."
    )
