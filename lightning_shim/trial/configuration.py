"""What the experiment's configuration asks of the training: it is done, or a warning says what is done instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from determined import pytorch

from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.upstream.determined.context import experiment_config, experiment_length, train_unit

_PERIODS: Final = {"validation_period": "min_validation_period", "checkpoint_period": "min_checkpoint_period"}
_CHOICES: Final = {
    "checkpoint_policy": ("checkpoint_policy", "best"),
    "step_zero_validation": ("perform_initial_validation", False),
}
"""By the argument of ``fit``, the entry of the configuration, and what the master writes there by default."""

_SOURCES: Final = ("source_trial_id", "source_checkpoint_uuid")
"""The entries of the searcher for whose weights a trial starts with; the master says which checkpoint that is."""

_DEFAULT_SCHEDULING_UNIT: Final = 100

_AS_DDP_DOES: Final = "It is an option of Horovod's; PyTorch's DistributedDataParallel exchanges the gradients."

_WITHOUT_EFFECT: Final[dict[str, tuple[Any, str]]] = {
    "optimizations.aggregation_frequency": (1, "accumulate_grad_batches of fit, or of Lightning's Trainer, does it."),
    "optimizations.auto_tune_tensor_fusion": (False, _AS_DDP_DOES),
    "optimizations.average_aggregated_gradients": (True, "Lightning averages the gradients that are accumulated."),
    "optimizations.average_training_metrics": (True, "self.log(..., sync_dist=True) averages over processes."),
    "optimizations.grad_updates_size_file": (None, _AS_DDP_DOES),
    "optimizations.gradient_compression": (False, "Gradients are exchanged as they are."),
    "optimizations.mixed_precision": ("O0", "precision='16-mixed' of fit, or of Lightning's Trainer, does it."),
    "optimizations.tensor_fusion_cycle_time": (1, _AS_DDP_DOES),
    "optimizations.tensor_fusion_threshold": (64, _AS_DDP_DOES),
    "profiling.begin_on_batch": (0, "The load of the machine is recorded from the start."),
    "profiling.end_after_batch": (None, "The load of the machine is recorded to the end."),
    "profiling.sync_timings": (True, "No times within a step are recorded, and nothing waits for the device."),
    "records_per_epoch": (0, "An epoch is as long as the training loader; limit_train_batches makes it shorter."),
}
"""By the entry of the configuration, what the master writes there by default, and what takes its place."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the configuration asks for."""

    entry: str  # the entry, as it stands there
    value: Any  # what it means for `fit`


class Configuration:
    """The configuration of an experiment.

    Attributes:
        wishes: What it asks for, by the argument of ``fit``. What is as the master writes it by default is no wish.
        profiles: Whether the load of the machine is to be recorded.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config: Final = config
        name, given, length = experiment_length(config)
        units = {"max_length": (name, given, length)}
        for argument, name in _PERIODS.items():
            units[argument] = (name, config.get(name), train_unit(config.get(name)))
        unit = config.get("scheduling_unit") or _DEFAULT_SCHEDULING_UNIT
        if unit != _DEFAULT_SCHEDULING_UNIT:
            units["reporting_period"] = ("scheduling_unit", unit, pytorch.Batch(unit))
        self._units: Final = units
        self.wishes: Final = {
            argument: Wish(f"{name}: {given}", value)
            for argument, (name, given, value) in units.items()
            if value is not None
        }
        for argument, (name, default) in _CHOICES.items():
            value = config.get(name)
            if value not in (None, default):
                self.wishes[argument] = Wish(f"{name}: {value}", value)
        for name in _SOURCES:
            if value := self._entry(f"searcher.{name}"):
                source = Wish(f"searcher.{name}: {value}", None)
                self.wishes.update(ckpt_path=source, latest_checkpoint=source)
        self.profiles: Final = bool(self._entry("profiling.enabled"))

    @classmethod
    def of_experiment(cls) -> Configuration:
        """Returns that of the experiment that this process belongs to; off-cluster an empty one."""
        return cls(experiment_config())

    @property
    def searcher_metric(self) -> str | None:
        """The metric by which trials are compared, which Determined looks for in validations; off-cluster None."""
        name: str | None = self._entry("searcher.metric")
        return name

    def _entry(self, path: str) -> Any:
        node: Any = self._config
        for name in path.split("."):
            node = (node or {}).get(name)
        return node

    def settle(self, argument: str, given: Any, default: Any, call: str | None = None) -> Any:
        """Chooses between what the code gives and what the configuration asks for: the code's counts, if it is given.

        For the warning, ``call`` is how the code says it; by default as an argument of ``fit``.
        """
        wish = self.wishes.get(argument)
        if wish is None or _is_same(given, wish.value):
            return given
        if _is_same(given, default):
            return wish.value
        warn_of_conflict(call or f"fit({argument}={_text(given)})", wish)
        return given

    def warn_of_what_has_no_effect(self) -> None:
        """Warns of entries that have no counterpart in any trial, and says what takes their place."""
        for path, (default, instead) in _WITHOUT_EFFECT.items():
            value = self._entry(path)
            if value not in (None, default):
                warn_at_caller(f"{path}: {value} of the experiment's configuration has no effect. {instead}")

    def warn_of_other_units(self) -> None:
        """Warns of a length or a period in records, which only the older entry point can count."""
        for name, given, value in self._units.values():
            counts = given.values() if isinstance(given, dict) else [given]
            if value is None and any(counts):
                warn_at_caller(
                    f"{name}: {given} of the experiment's configuration has no effect. Give it in epochs or in batches."
                )


def warn_of_conflict(call: str, wish: Wish) -> None:
    """Warns that the code gives something else than the configuration."""
    warn_at_caller(f"{call} takes precedence over {wish.entry} of the experiment's configuration.")


def _is_same(first: Any, second: Any) -> bool:
    """Compares what may be TrainUnits, which have no comparison of their own."""
    if isinstance(first, pytorch.TrainUnit) and isinstance(second, pytorch.TrainUnit):
        return type(first) is type(second) and bool(first.value == second.value)
    return bool(first == second)


def _text(value: Any) -> str:
    return f"{type(value).__name__}({value.value})" if isinstance(value, pytorch.TrainUnit) else repr(value)
