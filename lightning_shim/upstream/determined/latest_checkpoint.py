"""The checkpoint that Determined's loop is to continue from, read before the loop exists.

A module may build layers when it sees its checkpoint (``on_load_checkpoint``), and its optimizers have to know them.
Determined reads a checkpoint when the optimizers are there; it is given what has been read here.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import determined as det
import torch
from determined import pytorch

from lightning_shim.diagnostics.errors import CheckpointError
from lightning_shim.upstream.determined.checkpoint_errors import READ_FILES, STATE_FILE, read_files
from lightning_shim.upstream.determined.context import checkpoint_path, checkpoint_storage, is_on_cluster, replaced


@dataclass(frozen=True, slots=True)
class LatestCheckpoint:
    """What was read of a checkpoint."""

    name: str  # its UUID or its folder, as Determined's `Trainer.fit` gets it
    folder: pathlib.Path  # where its files were when it was read, for messages
    content: dict[str, Any]  # what Determined has saved in `state_dict.pth`
    is_own: bool  # whether this trial has written it, and goes on from there; otherwise it is a warm start

    @contextlib.contextmanager
    def downloaded_once(self, context: Any) -> Iterator[None]:
        """Has Determined's loop leave out the files that were read, when it downloads the checkpoint in the block."""
        checkpoints = context._core.checkpoint
        whole: Callable[..., AbstractContextManager[pathlib.Path]] = checkpoints.restore_path
        selectors = iter([lambda name: self.is_own and name != STATE_FILE])

        def restore_path(*args: Any, **options: Any) -> AbstractContextManager[pathlib.Path]:
            # The loop comes first; whatever else is restored afterwards is restored as asked for.
            selector = next(selectors, None)
            return whole(*args, **options) if selector is None else whole(*args, selector=selector, **options)

        with replaced(checkpoints, restore_path=restore_path):
            yield

    @contextlib.contextmanager
    def being_loaded(self, context: Any, folder: pathlib.Path) -> Iterator[None]:
        """Gives Determined's ``_load`` what was read, and nothing to put it into: the trial has done so."""
        content = self.content
        if not (folder / STATE_FILE).exists():
            # In a folder of downloads, where Determined looks whether it is there before it loads it.
            (folder / STATE_FILE).touch()

        def load(file: Any, *args: Any, **kwargs: Any) -> Any:
            return content if pathlib.Path(file).name == STATE_FILE else read(file, *args, **kwargs)

        read: Callable[..., Any] = torch.load
        with replaced(torch, load=load), replaced(context, models=[], optimizers=[], lr_schedulers=[]):
            yield


def name_of_latest_checkpoint(context: Any) -> str | None:
    """Returns what the cluster says to start from; it has no say where a checkpoint is loaded by hand."""
    if not is_on_cluster() or isinstance(context, pytorch.CheckpointLoadContext):
        return None
    info = det.get_cluster_info()
    name: str | None = None if info is None else info.latest_checkpoint
    return name


def read_latest_checkpoint(context: Any, name: str) -> LatestCheckpoint:
    """Reads a checkpoint, given by its UUID or, off-cluster, its folder; all processes do so together."""
    info = det.get_cluster_info() if is_on_cluster() else None
    is_here = contextlib.nullcontext(_local_folder(context, name)) if info is None else None
    with is_here or context._core.checkpoint.restore_path(name, selector=READ_FILES.__contains__) as folder:
        content, state = read_files(folder)
    # As _PyTorchTrialController has it.
    trial_id = 0 if info is None else info.trial.trial_id
    return LatestCheckpoint(name, folder, content, state.get("trial_id") == trial_id)


def _local_folder(context: Any, name: str) -> pathlib.Path:
    base = checkpoint_storage(context)
    # Determined insists on its folder of checkpoints even where the checkpoint is in another one.
    base.mkdir(parents=True, exist_ok=True)
    folder = checkpoint_path(context, name)
    if folder is None:
        raise CheckpointError(
            f"There is no checkpoint {name!r} in {base}. latest_checkpoint is a checkpoint's folder "
            "(fit(...).checkpoint_path) or its UUID."
        )
    return folder
