"""Records the hooks of a module, alike in both versions. It imports nothing of Lightning."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from tests.support.recording import Recording

NO_HOOKS = frozenset({"__init__", "loss", "optimizers_of_parts", "train_dataloader", "val_dataloader"})


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
                recording.add_learning_rates(self.trainer)
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
