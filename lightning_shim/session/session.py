"""One training: everything that is fixed for it, and where it stands."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import Any

from lightning_shim.session.options import TrainerOptions
from lightning_shim.session.progress import Progress
from lightning_shim.session.progress_bar import ProgressBar
from lightning_shim.session.schedule import Schedule
from lightning_shim.upstream.determined.controller import Controller
from lightning_shim.upstream.lightning import Lightning


@dataclass(eq=False)
class Session:
    """What the parts of a trial have in common, as Lightning's loops have their Trainer.

    Attributes:
        lightning: The module's Lightning.
        context: Determined's trial context.
        controller: Determined's training loop.
        schedule: The length of the training, and its periods.
        options: The options of the trial.
        module: The LightningModule.
        datamodule: The LightningDataModule, if there is one.
        ckpt_path: A checkpoint of Lightning's to start from, or None.
        latest_checkpoint: A checkpoint of Determined's to go on from, or None.
        progress: The counters of epochs, batches and steps.
        callbacks: The Lightning callbacks, in the order in which they are called; there when the trainer is attached.
        trainer: What the module has as ``self.trainer``; it enters itself.
        should_stop: Whether somebody has asked to stop: ``trainer.should_stop``.
        progress_bar: The bar that nobody's printing may tear, if one is shown.
    """

    lightning: Lightning
    context: Any
    controller: Controller
    schedule: Schedule
    options: TrainerOptions
    module: Any
    datamodule: Any
    ckpt_path: str | os.PathLike[str] | None = None
    latest_checkpoint: str | None = None
    progress: Progress = field(default_factory=Progress)
    callbacks: list[Any] = field(default_factory=list)
    trainer: Any = None
    should_stop: bool = False
    progress_bar: ProgressBar | None = None

    # Determined reads them off several objects each time, and they stay as they are.

    @functools.cached_property
    def global_rank(self) -> int:
        """The index of this process among all."""
        return int(self.context.distributed.rank)

    @functools.cached_property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return int(self.context.distributed.size)

    @property
    def global_step(self) -> int:
        """The number of optimizer steps; a module that switches has a count for each kind of optimization."""
        progress = self.progress
        return progress.automatic_steps if self.module.automatic_optimization else progress.manual_steps

    @property
    def min_epochs(self) -> int:
        """Epochs before which nobody stops the training early; as in Lightning one if there is a least of steps."""
        epochs, steps = self.options.min_epochs, self.options.min_steps
        return epochs if epochs is not None else 0 if steps is None else 1

    @property
    def stops_early(self) -> bool:
        """Whether somebody has asked to stop, and the training has been as long as it has to be."""
        if not self.should_stop:
            return False
        progress = self.progress
        # As in Lightning, an epoch counts when its last batch has been trained.
        epochs = progress.current_epoch + (progress.epoch_is_running and progress.is_last_batch)
        return epochs >= self.min_epochs and self.global_step >= (self.options.min_steps or 0)

    @property
    def stops_at_once(self) -> bool:
        """Whether no further batch is to be trained.

        Several processes agree first, when Determined reports: one that stopped alone would leave the others waiting.
        """
        return self.stops_early and self.world_size == 1
