"""What is recorded of a run, alike in both versions. It imports nothing of Lightning."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

NO_HOOKS = frozenset({"__init__", "loss", "optimizers_of_parts", "train_dataloader", "val_dataloader"})


@dataclass
class Recording:
    """What was seen of a run."""

    events: list[Any] = field(default_factory=list)
    logged: dict[int, list[tuple[str, float]]] = field(default_factory=dict)
    learning_rates: list[list[float]] = field(default_factory=list)
    callback_metrics: dict[str, float] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)
    optimizers: list[Any] = field(default_factory=list)
    global_step: int = -1
    random_state: Tensor | None = None

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds metrics that a logger, or Determined, was given."""
        for name, value in metrics.items():
            if name not in ("epoch", "epochs", "batches"):
                self.logged.setdefault(step, []).append((name, float(value)))

    def finish(self, module: Any) -> None:
        """Records what is left at the end."""
        trainer = module.trainer
        self.callback_metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.weights = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers]
        self.global_step = trainer.global_step
        self.random_state = torch.get_rng_state()


def summary(value: Any) -> Any:
    """Describes an argument or a result without keeping it."""
    if isinstance(value, Tensor):
        return value.tolist() if value.numel() == 1 else tuple(value.shape)
    if isinstance(value, Mapping):
        return {str(key): summary(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [summary(entry) for entry in value]
    if value is None or isinstance(value, (bool, numbers.Real, str)):
        return str(value)
    return type(value).__name__.removeprefix("Lightning")


def recorded(module_class: type, recording: Recording) -> type:
    """Makes a subclass of a module's class that records the hooks which that class, or a base of it, defines."""

    def wrap(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            state = () if self._trainer is None else (self.current_epoch, self.global_step, self.training)
            result = original(self, *args, **kwargs)
            recording.events.append((name, state, summary(args), summary(kwargs), summary(result)))
            if name == "training_step":
                recording.learning_rates.append(
                    [group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
                )
            return result

        return method

    own = {
        name
        for base in module_class.__mro__
        if base.__module__ == module_class.__module__
        for name, entry in vars(base).items()
        if callable(entry) and name not in NO_HOOKS
    }
    return type(module_class.__name__, (module_class,), {name: wrap(name, getattr(module_class, name)) for name in own})
