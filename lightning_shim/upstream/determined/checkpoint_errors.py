"""What can be wrong with a checkpoint's files when they are read or written, said as errors of ours."""

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

_OF_THE_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
"""What the system says if a disk takes no more."""


@contextlib.contextmanager
def reading_errors(path: pathlib.Path) -> Iterator[None]:
    """Makes errors of ours of those that a checkpoint's files are the reason for.

    Args:
        path: The checkpoint's folder.

    Raises:
        CheckpointError: If it is incomplete, damaged, or another module's.
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
    """Tells whether Determined has written a checkpoint to its end: the last file is ``metadata.json``.

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
    """Makes errors of ours of those that the disk is the reason for, while a checkpoint is written.

    Args:
        batches: The batches trained.
        last: The last checkpoint that was written, if there is one.

    Raises:
        CheckpointError: If the disk takes no more. What else is raised, such as by a hook, is left as it is.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number = error.errno if isinstance(error, OSError) else None
        if number not in _OF_THE_DISK and not is_error_of_the_writer(error):
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
