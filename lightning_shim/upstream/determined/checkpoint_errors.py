"""Turns errors caused by a checkpoint's files, or by the disk, into CheckpointError with advice."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pathlib
import pickle
from collections.abc import Iterator
from typing import Any, Final

import torch

from lightning_shim.diagnostics.errors import CheckpointError, LightningShimError
from lightning_shim.upstream.torch import is_error_of_the_writer

STATE_FILE: Final = "state_dict.pth"
TRIAL_STATE_FILE: Final = "trial_state.pkl"
METADATA_FILE: Final = "metadata.json"
READ_FILES: Final = (STATE_FILE, TRIAL_STATE_FILE)
"""The files that :func:`read_files` needs."""

_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""The error numbers of a disk that is full, over quota, broken or read-only."""


def read_files(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what Determined has saved of a trial, and its loop's state; the files are trusted, as by Determined."""
    for name in READ_FILES:
        if not (path / name).is_file():
            raise CheckpointError(
                f"{path / name} is missing: {path} is not a complete checkpoint of a PyTorchTrial. Resume from another "
                "one."
            )
    with _damage(path / STATE_FILE):
        content = torch.load(path / STATE_FILE, map_location="cpu", weights_only=False)
    with _damage(path / TRIAL_STATE_FILE), (path / TRIAL_STATE_FILE).open("rb") as stream:
        state = pickle.load(stream)
    if not isinstance(content, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{path / STATE_FILE} holds no checkpoint of a PyTorchTrial. Resume from another one.")
    return content, state


@contextlib.contextmanager
def _damage(file: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise CheckpointError(
            f"{file} is damaged or cut short ({type(error).__name__}: {error}). Resume from another one."
        ) from error


@contextlib.contextmanager
def fitting_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turns errors that are raised when a module takes over another one's checkpoint into CheckpointError."""
    try:
        yield
    except LightningShimError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"the checkpoint {path} does not fit this module ({type(error).__name__}: {error}). Resume from another "
            "one.",
            # What load_state_dict raises, for scripts that go on without the checkpoint then.
            also=RuntimeError if isinstance(error, RuntimeError) else None,
        ) from error


def is_complete(path: pathlib.Path) -> bool:
    """Whether Determined has finished writing a checkpoint, of which ``metadata.json`` is the last file."""
    try:
        json.loads((path / METADATA_FILE).read_text())
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def writing_errors(batches: int, last: pathlib.Path | str | None) -> Iterator[None]:
    """Turns errors of the disk that occur while a checkpoint is written into CheckpointError.

    Errors of any other kind, such as those of the user's hooks, pass unchanged.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in _DISK_ERRORS and not is_error_of_the_writer(error):
            raise
        rest = (
            "There is none before it."
            if last is None
            else f"The one before it is complete; continue from there with latest_checkpoint: {last}."
        )
        raise CheckpointError(
            f"the checkpoint after {batches} batches could not be written ({type(error).__name__}: {error}). Is the "
            f"disk full, or a quota used up? Make room. {rest}"
        ) from error
