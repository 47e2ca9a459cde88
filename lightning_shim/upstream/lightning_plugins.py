"""Lightning's ``plugins`` argument: those that a script's Trainer and its trial use, and those they do without."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import fsspec
import torch

from lightning_shim.upstream.namespaces import Namespace

_PRECISIONS: Final = ("Precision", "DoublePrecision", "HalfPrecision", "MixedPrecision")
"""The classes of precisions that a trial has too."""

_OWN_PROCESSES: Final = ("LightningEnvironment", "TorchElasticEnvironment")
"""The environments in which the processes are those of a trial: a single one, or torchrun's."""


class Plugins:
    """The plugins of a script's Trainer and of its strategy, by what becomes of them: used, ignored or refused."""

    def __init__(self, namespace: Namespace, given: dict[str, Any]) -> None:
        self._classes: Final = namespace.module("plugins")
        self._environments: Final = namespace.module("plugins.environments")
        self.used: Final[list[Any]] = []
        self.ignored: Final[list[Any]] = []
        self.refused: Final[list[Any]] = []
        self.synchronises_layers = False
        plugins, strategy = given.get("plugins") or (), given.get("strategy")
        of_strategy = [getattr(strategy, name, None) for name in ("_checkpoint_io", "_precision_plugin")]
        for plugin in (*(plugins if isinstance(plugins, Iterable) else [plugins]), *of_strategy):
            if plugin is not None:
                self._sort(plugin)

    def _sort(self, plugin: Any) -> None:
        classes = self._classes
        if isinstance(plugin, classes.CheckpointIO) or self._is_known_precision(plugin):
            self.used.append(plugin)
        elif isinstance(plugin, classes.LayerSync):
            self.used.append(plugin)
            self.synchronises_layers = True
        elif isinstance(plugin, self._environments.ClusterEnvironment):
            # SLURM's, for one, says by which signal it asks for the job to be put back into its queue.
            self.used.append(plugin)
            if type(plugin).__name__ not in _OWN_PROCESSES:
                self.ignored.append(plugin)
        elif isinstance(plugin, classes.Precision):
            self.refused.append(plugin)
        else:
            # Lightning's own error says what it takes for a plugin.
            self.used.append(plugin)

    def _is_known_precision(self, plugin: Any) -> bool:
        if not any(type(plugin) is getattr(self._classes, name) for name in _PRECISIONS):
            return False
        # A trial on a CPU takes "bf16-mixed" in its place, as Lightning does for the argument `precision`.
        return not (plugin.precision == "16-mixed" and str(plugin.device) == "cpu")


def layer_sync_of(trainer: Any, classes: Any) -> Any:
    """Returns the plugin that synchronises layers: the one of a script's Trainer, or Lightning's.

    Args:
        trainer: The script's Trainer, or None.
        classes: Lightning's module ``plugins``.
    """
    own = None if trainer is None else trainer._accelerator_connector._layer_sync
    return own or classes.TorchSyncBatchNorm()


def finish_writing(checkpoint_io: Any) -> None:
    """Waits until a plugin that writes checkpoints in a thread has written those it was given."""
    executor = getattr(checkpoint_io, "_executor", None)
    if executor is not None:
        # It has one thread, so this comes last.
        executor.submit(int).result()


def read_checkpoint(checkpoint_io: Any, path: str, default: type[Any]) -> Any:
    """Reads a checkpoint from a path, or a URL that fsspec supports, as a plugin has written it."""
    while hasattr(checkpoint_io, "checkpoint_io"):
        checkpoint_io = checkpoint_io.checkpoint_io
    if type(checkpoint_io).load_checkpoint is default.load_checkpoint:
        with fsspec.open(path, "rb") as file:
            # Not weights_only: the user's hooks may have put any object into a checkpoint.
            return torch.load(file, map_location="cpu", weights_only=False)
    return checkpoint_io.load_checkpoint(path)
