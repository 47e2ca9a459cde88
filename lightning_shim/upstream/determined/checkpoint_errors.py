"""Turns errors caused by a checkpoint's files, or by the disk, into CheckpointError with advice."""

from __future__ import annotations

import contextlib
import errno
import json
import pathlib
import pickle
from collections.abc import Iterator
from typing import Final

import torch

from lightning_shim.diagnostics.errors import CheckpointError, LightningShimError
from lightning_shim.upstream.torch import is_error_of_the_writer

STATE_FILE: Final = "state_dict.pth"
TRIAL_STATE_FILE: Final = "trial_state.pkl"
METADATA_FILE: Final = "metadata.json"

_DISK_ERRORS: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""The error numbers of a disk that is full, over quota, broken or read-only."""


@contextlib.contextmanager
def reading_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns errors that occur while a checkpoint is loaded into CheckpointError.

    Args:
        path: The checkpoint's folder.

    Raises:
        CheckpointError: If it is incomplete or damaged, or another module's.
    """
    for name in (STATE_FILE, TRIAL_STATE_FILE):
        file = path / name
        if not file.is_file():
            raise CheckpointError(
                f"{file} is missing: {path} is not a complete checkpoint of a PyTorchTrial. Resume from another one."
            )
    try:
        yield
    except LightningShimError:
        raise
    except Exception as error:
        # PyTorch raises the same kinds of error for a damaged file and for one of another module. Only reading the
        # files once more tells which it was.
        damaged = next((name for name in (STATE_FILE, TRIAL_STATE_FILE) if not _is_readable(path / name)), None)
        problem = (
            f"{path / damaged} is damaged or cut short"
            if damaged
            else f"the checkpoint {path} does not fit this module"
        )
        raise CheckpointError(f"{problem} ({type(error).__name__}: {error}). Resume from another one.") from error


def _is_readable(file: pathlib.Path) -> bool:
    try:
        if file.suffix == ".pth":
            torch.load(file, map_location="cpu", weights_only=False)
        else:
            with file.open("rb") as stream:
                pickle.load(stream)
    except Exception:
        return False
    return True


def is_complete(path: pathlib.Path) -> bool:
    """Whether Determined has finished writing a checkpoint, of which ``metadata.json`` is the last file.

    Args:
        path: The checkpoint's folder.
    """
    try:
        json.loads((path / METADATA_FILE).read_text())
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def writing_errors(batches: int, last: pathlib.Path | str | None) -> Iterator[None]:
    """Turns errors of the disk that occur while a checkpoint is written into CheckpointError.

    Errors of any other kind, such as those of the user's hooks, pass unchanged.

    Args:
        batches: The number of batches trained, for the message.
        last: The previous checkpoint, or None.

    Raises:
        CheckpointError: If the disk cannot be written to.
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
