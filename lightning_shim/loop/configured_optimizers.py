"""The return value of ``configure_optimizers``: every shape that Lightning accepts, and nothing else."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Protocol

import torch

from lightning_shim.diagnostics.errors import ConfigurationError, DifferenceWarning, OptimizersWarning
from lightning_shim.diagnostics.locations import definition_location
from lightning_shim.diagnostics.warn import warn_at_definition
from lightning_shim.upstream.lightning import Lightning

_SHAPES: Final = (
    "an Optimizer; a list of optimizers; (list of optimizers, list of schedulers); "
    'a dictionary {"optimizer": ..., "lr_scheduler": ...}; a tuple of such dictionaries'
)
_PYTORCH_SCHEDULERS: Final = (torch.optim.lr_scheduler.LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


class SchedulerConfig(Protocol):
    """Lightning's ``LRSchedulerConfig``."""

    scheduler: Any
    name: str | None
    interval: str
    frequency: int
    reduce_on_plateau: bool
    monitor: str | None
    strict: bool


@dataclass(frozen=True, slots=True)
class ConfiguredOptimizers:
    """The optimizers and schedulers of a module, in the order in which they were returned."""

    optimizers: list[torch.optim.Optimizer]  # the optimizers; Lightning's mock optimizer if the hook returned None
    # Lightning's `LRSchedulerConfig` of each scheduler, which says when to step it.
    lr_scheduler_configs: list[SchedulerConfig]
    # The length of each optimizer's turn in batches, as Lightning 1.x had it; empty if all optimizers train on every
    # batch.
    frequencies: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _OptimizersReader:
    """Parses one return value; holds the facts about the module that decide what is valid."""

    lightning: Lightning
    definition: Callable[..., Any]
    automatic: bool
    steps_itself: bool
    takes_turns: bool

    @property
    def _more_keys(self) -> set[str]:
        # Lightning 2 knows no "frequency". It is read only where several optimizers can take turns.
        return {"frequency"} if self.takes_turns else set()

    def error(self, problem: str, also: type[Exception] | None = None) -> ConfigurationError:
        return ConfigurationError(f"{definition_location(self.definition)}: configure_optimizers {problem}", also)

    def warn(self, message: str, category: type[DifferenceWarning] = OptimizersWarning) -> None:
        warn_at_definition(self.definition, message, category)

    def handle_none(self) -> None:
        """Warns that None was returned, or refuses it if a ``return`` seems to have been forgotten."""
        if _forgets_to_return(self.definition):
            raise self.error(
                "returned None, so that nothing would be trained: it calls something, but has no `return` with a "
                "value. Return the optimizer; or write `return None` if the module is to be trained without one."
            )
        self.warn(
            "`LightningModule.configure_optimizers` returned `None`, this fit will run with no optimizer: gradients "
            "are computed, but the weights stay as they are. Is a `return` missing?",
            DifferenceWarning,
        )

    def split(self, returned: Any) -> tuple[list[Any], list[Any]]:
        """Separates optimizers from schedulers, which are left as the user wrote them."""
        if isinstance(returned, torch.optim.Optimizer):
            return [returned], []
        if isinstance(returned, Mapping):
            return self.split((returned,))
        if isinstance(returned, (list, tuple)):
            # A pair is two lists only if the first one is a list: it may as well be a tuple of two optimizers.
            if len(returned) == 2 and isinstance(returned[0], list):
                optimizers, schedulers = returned
                if self._are_optimizers(optimizers):
                    return list(optimizers), list(schedulers) if isinstance(schedulers, list) else [schedulers]
            if returned and all(isinstance(entry, Mapping) for entry in returned):
                return self._split_mappings(returned)
            if self._are_optimizers(returned):
                return list(returned), []
        raise self.error(
            f"returned {returned!r}. Unknown configuration for model optimizers. It has to return one of: {_SHAPES}."
        )

    @staticmethod
    def _are_optimizers(entries: Any) -> bool:
        return all(isinstance(entry, torch.optim.Optimizer) for entry in entries)

    def _split_mappings(self, entries: Any) -> tuple[list[Any], list[Any]]:
        optimizers, schedulers = [], []
        for entry in entries:
            unknown = entry.keys() - {"optimizer", "lr_scheduler", "monitor", *self._more_keys}
            if unknown:
                self.warn(
                    f"Found unsupported keys in the optimizer configuration: {unknown}. They have no effect; those "
                    "used are optimizer, lr_scheduler and monitor."
                )
            if not isinstance(entry.get("optimizer"), torch.optim.Optimizer):
                raise self.error(f'returned a dictionary whose "optimizer" is {entry.get("optimizer")!r}.')
            optimizers.append(entry["optimizer"])
            if entry.get("lr_scheduler") is not None:
                scheduler = entry["lr_scheduler"]
                # Lightning honours the top-level monitor for a single dictionary and a bare ReduceLROnPlateau only.
                if len(entries) == 1 and self._is_plateau(scheduler) and "monitor" in entry:
                    scheduler = {"scheduler": scheduler, "monitor": entry["monitor"]}
                schedulers.append(scheduler)
        return optimizers, schedulers

    def frequencies(self, returned: Any) -> list[int]:
        """Returns the length of each optimizer's turn in batches; empty if they do not take turns."""
        if not (isinstance(returned, (list, tuple)) and all(isinstance(entry, Mapping) for entry in returned)):
            return []
        frequencies = [entry["frequency"] for entry in returned if self._more_keys & entry.keys()]
        if len(frequencies) not in (0, len(returned)) or not all(frequency > 0 for frequency in frequencies):
            raise self.error(
                f"returned the frequencies {frequencies} for {len(returned)} optimizers. Give each optimizer a "
                'positive "frequency", or none of them.'
            )
        return frequencies

    @staticmethod
    def _is_plateau(scheduler: Any) -> bool:
        return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)

    def scheduler_config(self, returned: Any) -> SchedulerConfig:
        settings = dict(returned) if isinstance(returned, Mapping) else {"scheduler": returned}
        known = {entry.name for entry in fields(self.lightning.LRSchedulerConfig)}
        unknown = settings.keys() - known
        if unknown:
            self.warn(f"Found unsupported keys in the lr scheduler dict: {unknown}. Take them out.")
        # With manual optimization the user steps the schedulers; Lightning never looks at these keys.
        useless = {"reduce_on_plateau", "monitor", "strict"} & settings.keys() if not self.automatic else set()
        if useless:
            self.warn(
                f"The lr scheduler dict contains the key(s) {sorted(useless)}, but the keys will be ignored. You need "
                "to call `lr_scheduler.step()` manually in manual optimization."
            )
        settings = {key: value for key, value in settings.items() if key not in unknown | useless}
        if "scheduler" not in settings:
            raise self.error(
                'returned a scheduler dictionary. The lr scheduler dict must have the key "scheduler" with its item '
                "being an lr scheduler."
            )
        scheduler = settings["scheduler"]
        if not all(callable(getattr(scheduler, name, None)) for name in ("state_dict", "load_state_dict")):
            raise self.error(
                f"returned the scheduler {scheduler!r}, which has no state_dict and load_state_dict, so that a paused "
                "trial could not continue with it.",
                also=TypeError,
            )
        if self.automatic:
            self._check_automatic(settings, scheduler, isinstance(returned, Mapping))
        config: SchedulerConfig = self.lightning.LRSchedulerConfig(**settings)
        return config

    def _check_automatic(self, settings: dict[str, Any], scheduler: Any, is_dictionary: bool) -> None:
        settings.setdefault("reduce_on_plateau", self._is_plateau(scheduler))
        if settings.get("interval", "epoch") not in ("step", "epoch"):
            raise self.error(
                'returned a scheduler dictionary. The "interval" key in lr scheduler dict must be "step" or "epoch" '
                f'but is "{settings["interval"]}".'
            )
        if settings["reduce_on_plateau"] and settings.get("monitor") is None:
            raise self.error(
                f"returned no monitor. {'The lr scheduler dict' if is_dictionary else '`configure_optimizers`'} must "
                "include a monitor when a `ReduceLROnPlateau` scheduler is used. For example: "
                '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}.'
            )
        if isinstance(scheduler, torch.optim.lr_scheduler.OneCycleLR) and settings.get("interval", "epoch") == "epoch":
            self.warn(
                "A `OneCycleLR` scheduler is using 'interval': 'epoch', so it is stepped once an epoch. Are you sure "
                "you didn't mean 'interval': 'step'?"
            )
        if not (isinstance(scheduler, _PYTORCH_SCHEDULERS) or self.steps_itself):
            raise self.error(
                f"returned the scheduler {scheduler!r}, which doesn't follow PyTorch's LRScheduler API. You should "
                "override the `LightningModule.lr_scheduler_step` hook to say how it is stepped."
            )


def _forgets_to_return(definition: Callable[..., Any]) -> bool:
    """Whether a function calls something, such as an optimizer's class, and never returns a value."""
    try:
        (function,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(definition)))).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return False
    if not isinstance(function, ast.FunctionDef):
        return False
    calls = False
    nodes: list[ast.AST] = list(function.body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Return) and node.value is not None:
            return False
        calls |= isinstance(node, ast.Call)
        # A `return` inside a nested function does not return from this one.
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            nodes += ast.iter_child_nodes(node)
    return calls


def read_optimizers(
    lightning: Lightning,
    returned: Any,
    definition: Callable[..., Any],
    *,
    automatic: bool,
    steps_itself: bool,
    takes_turns: bool = False,
) -> ConfiguredOptimizers:
    """Parses and checks the return value of ``configure_optimizers``; messages point at its definition.

    The module may step schedulers itself (``lr_scheduler_step``), or its ``training_step`` may take ``optimizer_idx``,
    as with several optimizers in Lightning 1.x.
    """
    reader = _OptimizersReader(lightning, definition, automatic, steps_itself, takes_turns)
    if returned is None:
        if automatic:
            reader.handle_none()
        return ConfiguredOptimizers([lightning.NoOptimizer()], [])
    optimizers, schedulers = reader.split(returned)
    if automatic and not optimizers:
        raise reader.error(
            f"returned {returned!r}, so that nothing would be trained. Return an optimizer, or set "
            "self.automatic_optimization = False if the training step does it all by itself."
        )
    configs = [reader.scheduler_config(scheduler) for scheduler in schedulers]
    if automatic and len(optimizers) > 1 and not takes_turns:
        raise reader.error(
            f"returned {len(optimizers)} optimizers. Training with multiple optimizers is only supported with manual "
            "optimization. Set `self.automatic_optimization = False` and step them in `training_step` "
            "(`self.optimizers()`).",
            also=RuntimeError,
        )
    for config in configs:
        if hasattr(config.scheduler, "optimizer") and config.scheduler.optimizer not in optimizers:
            raise reader.error(
                f"returned the scheduler {config.scheduler!r}. Some schedulers are attached with an optimizer that "
                "wasn't returned from `configure_optimizers`."
            )
    return ConfiguredOptimizers(optimizers, configs, reader.frequencies(returned))
