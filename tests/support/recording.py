"""What is seen of a run under any Trainer, Lightning 1.9's among them. It imports nothing of Lightning for that."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class Recording:
    """What was seen of a run."""

    events: list[tuple[Any, ...]] = field(default_factory=list)
    logged: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    learning_rates: list[list[float]] = field(default_factory=list)
    callback_metrics: dict[str, float] = field(default_factory=dict)
    logged_metrics: dict[str, float] = field(default_factory=dict)
    progress_bar_metrics: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimizers: list[Any] = field(default_factory=list)
    schedulers: list[Any] = field(default_factory=list)
    global_step: int = -1
    current_epoch: int = -1
    random_state: Tensor | None = None
    callback_states: dict[str, Any] = field(default_factory=dict)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds metrics that a logger, or Determined, was given."""
        for name, value in metrics.items():
            if name not in ("epoch", "epochs", "batches"):
                self.logged.setdefault(step, []).append((name, float(value)))

    def add_learning_rates(self, trainer: Any) -> None:
        """Adds the learning rates of the moment."""
        self.learning_rates.append(
            [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        )

    def finish(self, module: Any) -> None:
        """Records what is left at the end."""
        trainer = module.trainer
        for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
            setattr(self, name, {key: float(value) for key, value in getattr(trainer, name).items()})
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
        self.schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
        self.global_step, self.current_epoch = trainer.global_step, trainer.current_epoch
        self.random_state = torch.get_rng_state()
        # A timer's is the time. One without a state may be Lightning's own doing, and is in no checkpoint.
        self.callback_states = {
            callback.state_key: copy.deepcopy(state)
            for callback in trainer.callbacks
            if type(callback).__name__ != "Timer" and (state := callback.state_dict())
        }


def recording_logger(logger_class: type, recording: Recording) -> Any:
    """Makes a logger that records what a Trainer logs.

    Args:
        logger_class: Lightning's ``Logger``.
        recording: Where to.
    """

    class RecordingLogger(logger_class):  # type: ignore[misc,valid-type]
        name = "recording"
        version = "0"
        experiment = None

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
            pass

        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            assert step is not None
            recording.log(step, metrics)

    return RecordingLogger()
