"""The files that ModelCheckpoint writes. Determined's checkpoints hold copies, as a container's disk does not last."""

from __future__ import annotations

import os
import shutil
from typing import Any, Final

from lightning_shim.checkpoint.machines import share
from lightning_shim.diagnostics.writable import verify_writable
from lightning_shim.upstream.namespaces import derives_from

FILES_KEY: Final = "lightning_shim_files"
"""The key in a checkpoint of the original paths, by the names of the copies."""

FOLDER: Final = "model_checkpoints"
"""The folder of the copies in a checkpoint."""


class KeptFiles:
    """The checkpoints that ModelCheckpoint callbacks have written on the machine of rank 0."""

    def __init__(self, callbacks: list[Any]) -> None:
        self._callbacks: Final = [callback for callback in callbacks if derives_from(callback, "ModelCheckpoint")]
        # Their ``setup`` gives them the folder of a logger, which may be another one after a pause.
        self._without_folder: Final = [callback for callback in self._callbacks if callback.dirpath is None]
        self._saved: dict[str, str] = {}

    def restore_folders(self, checkpoint: dict[str, Any]) -> None:
        """Gives callbacks without a folder of their own the one that they had before a pause.

        Otherwise Lightning would have them forget which checkpoints are the best. Call it before their states are
        loaded.
        """
        states = checkpoint.get("callbacks", {})
        for callback in self._without_folder:
            callback.dirpath = states.get(callback.state_key, {}).get("dirpath", callback.dirpath)

    def verify_folders(self) -> None:
        """Refuses a folder that cannot be written to, before anything is trained."""
        for callback in self._callbacks:
            verify_writable(callback.dirpath, f"{type(callback).__name__}(dirpath=...)")

    def _by_name(self) -> dict[str, str]:
        """Returns the paths of the files, by distinct names."""
        paths = {
            path: None
            for callback in self._callbacks
            for path in (callback.best_model_path, callback.last_model_path, *callback.best_k_models)
            if os.path.isfile(path)
        }
        names: dict[str, str] = {}
        for path in paths:
            name = os.path.basename(path)
            names[f"{len(names)}-{name}" if name in names else name] = path
        return names

    def newest(self) -> str | None:
        """Returns the path of the file that was written last, or None if there is none."""
        return max(self._by_name().values(), key=os.path.getmtime, default=None)

    def share(self) -> None:
        """Has the files on every machine. All processes call it together."""
        share(self._by_name().values(), replaces=True)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Lists in a checkpoint the files that it will hold."""
        checkpoint[FILES_KEY] = self._saved = self._by_name()

    def write(self, folder: str) -> None:
        """Copies the files into the checkpoint that was saved last."""
        for name, path in self._saved.items():
            _copy(path, os.path.join(folder, FOLDER, name))

    def restore(self, checkpoint: dict[str, Any], folder: str | os.PathLike[str] | None) -> None:
        """Copies the files back to their paths, unless they still exist."""
        assert folder is not None
        for name, path in checkpoint.get(FILES_KEY, {}).items():
            if not os.path.exists(path):
                _copy(os.path.join(folder, FOLDER, name), path)


def _copy(source: str, target: str) -> None:
    """Copies a file, by a hard link if possible: Lightning replaces files and never changes one."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)
