"""The Session: one training's fixed parts, and where it stands."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from typing import Any

from determined import pytorch

from lightning_shim.session.options import TrainerOptions
from lightning_shim.session.profiling import Profiling
from lightning_shim.session.progress import Progress
from lightning_shim.session.progress_bar import ProgressBar
from lightning_shim.session.schedule import Schedule
from lightning_shim.upstream.determined.context import is_on_cluster
from lightning_shim.upstream.determined.controller import Controller
from lightning_shim.upstream.lightning import Lightning
from lightning_shim.upstream.lightning_loops import RestartedLoops
from lightning_shim.upstream.lightning_strategy import is_distributed
from lightning_shim.upstream.namespaces import derives_from


@dataclass(eq=False)
class Session:
    """The object that all parts of a trial share, as Lightning's loops share their Trainer."""

    lightning: Lightning
    context: Any
    controller: Controller
    schedule: Schedule  # the length of the training, and its periods
    options: TrainerOptions
    module: Any
    datamodule: Any  # the LightningDataModule, or None
    ckpt_path: str | os.PathLike[str] | None = None  # a Lightning checkpoint to start from, or None
    latest_checkpoint: str | None = None  # a checkpoint of Determined's to continue from, or None
    script_trainer: Any = None  # the script's own Trainer that is fitting, whose limits and periods count, or None
    progress: Progress = field(default_factory=Progress)  # the counters of epochs, batches and steps
    # The Lightning callbacks in the order of their calls; empty until the trainer is attached.
    callbacks: list[Any] = field(default_factory=list)
    trainer: Any = None  # the facade; None until it has been created
    should_stop: bool = False  # whether a stop has been requested: `trainer.should_stop`
    stopped_by: str | None = None  # the requester, in words; None if it was another process
    # Whether there are no batches to train on, which ends a script's training without an error.
    lacks_batches: bool = False
    # Lightning's loops, after a checkpoint of its own, until the first epoch goes on from there.
    restarted_loops: RestartedLoops | None = None
    # The progress bar that is shown, or None. Everything is printed through it, above the bar.
    progress_bar: ProgressBar | None = None

    @functools.cached_property
    def profiling(self) -> Profiling:
        """The profiler of a script's Trainer, if it has one that measures."""
        profiler = getattr(self.script_trainer, "profiler", None)
        is_off = profiler is None or derives_from(profiler, "PassThroughProfiler")
        return Profiling(None if is_off else profiler)

    @property
    def trainer_of_hooks(self) -> Any:
        """The trainer that hooks and ``self.trainer`` have: the facade, or the script's own Trainer, which shows it."""
        return self.trainer if self.script_trainer is None else self.script_trainer

    # Cached, since Determined goes through several objects to answer, and they are asked for in each step.

    @functools.cached_property
    def global_rank(self) -> int:
        """The index of this process among all processes."""
        return int(self.context.distributed.rank)

    @functools.cached_property
    def world_size(self) -> int:
        """The number of processes that train together."""
        return int(self.context.distributed.size)

    @functools.cached_property
    def is_distributed(self) -> bool:
        """Whether the training is Lightning's of DDPStrategy, which a single process has too if its strategy is DDP."""
        return self.world_size > 1 or is_distributed(self.options.strategy)

    @property
    def global_step(self) -> int:
        """The number of optimizer steps."""
        # As in Lightning, a module that switches between automatic and manual optimization has a count for each.
        progress = self.progress
        return progress.automatic_steps if self.module.automatic_optimization else progress.manual_steps

    @property
    def min_epochs(self) -> int:
        """The epochs before which the training cannot stop early; as in Lightning one if ``min_steps`` is given."""
        epochs, steps = self.options.min_epochs, self.options.min_steps
        return epochs if epochs is not None else 0 if steps is None else 1

    @property
    def stops_early(self) -> bool:
        """Whether a stop has been requested and the minimum of epochs and steps has been reached."""
        # As in Lightning, an epoch counts when its last batch has been trained.
        return self.should_stop and self._has_trained_the_minimum(self.progress.epochs_trained)

    @property
    def validates_early(self) -> bool:
        """Whether to validate now because a stop has been requested; the epoch that is ending does not count yet."""
        return self.should_stop and self._has_trained_the_minimum(self.progress.current_epoch)

    def _has_trained_the_minimum(self, epochs: int) -> bool:
        return epochs >= self.min_epochs and self.global_step >= (self.options.min_steps or 0)

    @property
    def has_reached_its_limits(self) -> bool:
        """Whether ``max_epochs`` or ``max_steps`` of a script's Trainer has been trained, or it has no batches."""
        return self.script_trainer is not None and (self.lacks_batches or self.limit_reached is not None)

    @property
    def limit_reached(self) -> str | None:
        """The limit of a script's Trainer that has ended the training, such as ``max_epochs=2``, or None."""
        trainer = self.trainer
        counts = {"max_steps": self.global_step, "max_epochs": self.progress.epochs_trained}
        limits = {name: getattr(trainer, name) for name in counts}
        return next((f"{name}={limits[name]}" for name in counts if 0 <= limits[name] <= counts[name]), None)

    def validates_in_epoch(self, epoch: int) -> bool:
        """Whether an epoch ends with a validation, or may have some by batches."""
        every = self.trainer.check_val_every_n_epoch
        return every is None or pytorch.Epoch(every).should_stop(epoch + 1)

    @property
    def writes_checkpoints(self) -> bool:
        """Whether Determined writes checkpoints. Off-cluster a script has those of its own ModelCheckpoint."""
        return self.script_trainer is None or is_on_cluster()

    @property
    def received_sigterm(self) -> bool:
        """Whether SIGTERM has come to a script's Trainer."""
        return self.script_trainer is not None and self.script_trainer.received_sigterm

    def heed_sigterm(self) -> None:
        """Ends the training if SIGTERM has come; several processes have to agree first, see :attr:`stops_at_once`."""
        if self.received_sigterm and self.world_size == 1:
            raise self.lightning.SIGTERMException

    @property
    def stops_at_once(self) -> bool:
        """Whether to train no further batch.

        It is False with several processes, which have to agree first: one that stopped alone would leave the others
        waiting. They do so when Determined reports.
        """
        return self.stops_early and self.world_size == 1
