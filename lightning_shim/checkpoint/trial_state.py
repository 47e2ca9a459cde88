"""The state that lets a paused trial continue exactly, added to Determined's checkpoint.

It is loaded in three phases, since a module is built and its hooks run before anything may be restored: what they do to
counters, attributes and random numbers would overwrite it.

1. While the trial is built, :class:`StartingCheckpoint` loads weights, optimizers and schedulers, and the
   ``on_load_checkpoint`` hooks run. Here :meth:`TrialState.load` only makes room for the optimizers' states.
2. When training starts, :meth:`TrialState.apply` restores counters, flags and metrics. ``on_train_start`` and the hooks
   after it have to find them.
3. After those hooks, just before the first batch, loaders, random numbers and attributes are restored. These are kept
   until then by the training loop and by :class:`OwnAttributes`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Final

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric, MetricTracker

from lightning_shim.checkpoint.attributes import FLAGS_OF_LAYERS, OwnAttributes
from lightning_shim.checkpoint.lightning_format import without_arrays
from lightning_shim.checkpoint.pruning import PruningState, prune_again, pruning_of
from lightning_shim.checkpoint.weight_averaging import WeightAveragingState
from lightning_shim.compatibility.inspection import may_change_optimization
from lightning_shim.loop.other_length import continue_elsewhere
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.metrics.collector import MetricViews

STATE_KEY: Final = "lightning_shim"
"""Its key in the checkpoint."""

_FLAGS_OF_MODULES: Final = ("training", *FLAGS_OF_LAYERS)
"""Attributes of submodules that hooks change when they freeze or unfreeze layers, or average weights."""


class TrialState:
    """Saves and restores the state that a trial needs to continue exactly."""

    def __init__(
        self, runtime: Runtime, training_loop: TrainingLoop, averaging: WeightAveragingState, attributes: OwnAttributes
    ) -> None:
        self._session: Final = runtime.session
        self._module: Final = runtime.session.module
        self._progress: Final = runtime.session.progress
        self._strategy: Final = runtime.strategy
        self._training_loop: Final = training_loop
        self._metrics: Final = runtime.metrics
        self._averaging: Final = averaging
        self._attributes: Final = attributes
        self._processes: list[dict[str, Any]] = []
        self._loaded: dict[str, Any] | None = None
        self._pruning: PruningState | None = None
        self._initial_flags: dict[str, Any] = {}

    def start(self) -> None:
        """Records the flags that hooks may change later."""
        self._initial_flags = self._flags()

    def gather(self) -> None:
        """Gathers the state of each process before rank 0 saves it. All processes have to call it."""
        state = self._process_state()
        if self._strategy.root_device.type != "cpu":
            # A tensor of a GPU would be rebuilt on that GPU by rank 0, and again by whoever reads the checkpoint.
            state = apply_to_collection(state, Tensor, Tensor.cpu)
        self._processes = self._session.context.distributed.gather(state)

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state to a checkpoint."""
        # Only those that have changed: the code sets the others again.
        flags = {name: flag for name, flag in self._flags().items() if flag is not self._initial_flags.get(name)}
        state = {
            "progress": self._progress.state_dict(),
            "flags": flags,
            "pruning": pruning_of(self._module, self._session.callbacks),
            "parameter_groups": names_of_groups(self._module, self._strategy.optimizers),
            "processes": self._processes,
        }
        # There may be gradients in it, which are as large as the weights.
        self._processes = []
        checkpoint[STATE_KEY] = without_arrays(state)

    @staticmethod
    def pruning_in(checkpoint: dict[str, Any]) -> PruningState | None:
        """Returns what was pruned when a checkpoint was written; None if it does not say so."""
        pruning: PruningState | None = checkpoint.get(STATE_KEY, {}).get("pruning")
        return pruning

    def restore_pruning(self) -> None:
        """Prunes what was pruned when the checkpoint was written, and nothing else, whatever hooks have pruned."""
        if self._pruning is not None:
            prune_again(self._module, self._session.callbacks, self._pruning)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the state until training starts, and adds the parameter groups that the optimizers' states need."""
        # The checkpoint may turn out to be another trial's, from which only the weights are used. Then training starts
        # with batch 0, and nobody calls apply().
        self._loaded, self._pruning = checkpoint.get(STATE_KEY), self.pruning_in(checkpoint)
        self.restore_pruning()
        if self._loaded is not None:
            # Determined loads the optimizers next, and fails if a hook had added a group, as when it unfreezes layers.
            add_missing_groups(self._module, self._strategy.optimizers, self._loaded["parameter_groups"])

    def apply(self) -> bool:
        """Restores the loaded state, and returns whether there was one.

        If the number of processes or the length of the loaders has changed, the states of single processes are
        meaningless. The running epoch then loses its logged values, and continues after the same part of its batches.
        """
        state, self._loaded = self._loaded, None
        if state is None:
            return False
        rank, size = self._session.global_rank, self._session.world_size
        self._progress.load_state_dict(state["progress"])
        self._averaging.apply()
        self._restore_flags(state["flags"])
        processes = state["processes"]
        # Not restored yet: hooks up to on_train_start would overwrite them.
        goes_on = len(processes) == size and processes[rank]["training_loop"]["length"] == self._training_loop.length
        self._attributes.load(processes[rank if len(processes) == size else 0]["attributes"], goes_on)
        if not goes_on:
            self._metrics.views.update(self._views(processes[0]))
            continue_elsewhere(self._session, self._training_loop, processes[0]["training_loop"], len(processes), size)
            return True
        own = processes[rank]
        self._metrics.views.update(self._views(own))
        self._training_loop.load_state_dict(own["training_loop"])
        for name, tracker in self._trackers().items():
            # A tracker copies its metrics for each pass, and a newly built one has no copies yet.
            for _ in range(own["trackers"].get(name, 0) - tracker.n_steps):
                tracker.increment()
        metrics = self._torchmetrics()
        self._metrics.training.load_state_dict(own["metrics"], metrics)
        # Gradients that were being accumulated, which a Lightning checkpoint does not hold.
        parameters = dict(self._module.named_parameters())
        for name, gradient in own["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name].device)
        for name, saved in own["torchmetrics"].items():
            if name in metrics:
                for attribute, value in saved.items():
                    # A copy for each: metrics of a MetricCollection share their states once they have been updated, and
                    # new ones do not. Lists are on the CPU with compute_on_cpu=True, and else on the metric's device.
                    own_value, metric = copy.deepcopy(value), metrics[name]
                    if not (isinstance(value, list) and metric.compute_on_cpu):
                        own_value = self._session.lightning.move_data_to_device(own_value, metric.device)
                    setattr(metric, attribute, own_value)
        return True

    def _views(self, process: dict[str, Any]) -> MetricViews:
        """Returns the views of a process, on the device: there Lightning has them while it trains."""
        return MetricViews(**self._session.lightning.move_data_to_device(process["views"], self._strategy.root_device))

    def _flags(self) -> dict[str, Any]:
        """Returns the flags by name: which parameters are trained, and the modes and statistics of submodules."""
        trained = {f"requires_grad {name}": entry.requires_grad for name, entry in self._module.named_parameters()}
        # A flag is named after its owner, and the module's own name among its submodules is empty.
        optimized = {"automatic_optimization ": self._module.automatic_optimization}
        return (
            trained
            | optimized
            | {
                f"{flag} {name}": getattr(submodule, flag)
                for name, submodule in self._module.named_modules()
                for flag in _FLAGS_OF_MODULES
                if flag in vars(submodule)
            }
        )

    def _restore_flags(self, flags: dict[str, Any]) -> None:
        parameters, submodules = dict(self._module.named_parameters()), dict(self._module.named_modules())
        for entry, value in flags.items():
            flag, _, name = entry.partition(" ")
            owner = (parameters if flag == "requires_grad" else submodules).get(name)
            if owner is not None:
                setattr(owner, flag, value)

    def _process_state(self) -> dict[str, Any]:
        return {
            "training_loop": self._training_loop.state_dict(),
            "metrics": self._metrics.training.state_dict(),
            "views": {name: dict(getattr(self._metrics.views, name)) for name in MetricViews.__slots__},
            "gradients": self._gradients(),
            "attributes": self._attributes.state(),
            "trackers": {name: tracker.n_steps for name, tracker in self._trackers().items()},
            # torchmetrics' private names of the states and of the count of updates.
            "torchmetrics": {
                name: {attribute: getattr(metric, attribute) for attribute in (*metric._defaults, "_update_count")}
                for name, metric in self._torchmetrics().items()
            },
        }

    def _gradients(self) -> dict[str, Tensor]:
        """Returns the gradients that a later step will use, and those that no optimizer releases; usually none."""
        # Gradients are as large as the weights. Saving them only where they are needed keeps checkpoints small.
        released = set()
        if self._module.automatic_optimization and not self._may_use_gradients():
            groups = (group for optimizer in self._strategy.optimizers for group in optimizer.param_groups)
            released = {id(parameter) for group in groups for parameter in group["params"]}
        return {
            name: parameter.grad
            for name, parameter in self._module.named_parameters()
            if parameter.grad is not None and id(parameter) not in released
        }

    def _may_use_gradients(self) -> bool:
        """Whether a later step may use the gradients that automatic optimization has left."""
        # Gradients are released at the first batch of an epoch, and wherever an accumulation begins. If a callback
        # makes the accumulation longer, or the module switches to manual optimization, then the next batch may add to
        # gradients that a step has used already.
        return (
            self._training_loop.accumulates_gradients
            or self._averaging.needs_gradients(self._progress.current_epoch)
            or self._optimization_may_change
        )

    @functools.cached_property
    def _optimization_may_change(self) -> bool:
        """Whether the user's code may switch the optimization or change the accumulation."""
        return may_change_optimization([self._module, self._session.datamodule, *self._session.callbacks])

    def _trackers(self) -> dict[str, MetricTracker]:
        return {name: module for name, module in self._module.named_modules() if isinstance(module, MetricTracker)}

    def _torchmetrics(self) -> dict[str, Metric]:
        return {name: module for name, module in self._module.named_modules() if isinstance(module, Metric)}


Names = list[list[list[str]]]
"""The parameters' names, by optimizer and group."""


def names_of_groups(module: Any, optimizers: Sequence[Optimizer]) -> Names:
    """Returns the names of the parameters in the optimizers' groups; empty for one that is not the module's."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        [[names.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def add_missing_groups(module: Any, optimizers: Sequence[Optimizer], names: Names) -> None:
    """Adds the parameter groups that the optimizers lack. Their states and settings are loaded later."""
    # A mismatch is no error here: whoever loads the optimizers' states reports it.
    parameters = dict(module.named_parameters())
    for optimizer, groups in zip(optimizers, names, strict=False):
        for group in groups[len(optimizer.param_groups) :]:
            if parameters.keys() >= set(group):
                optimizer.add_param_group({"params": [parameters[name] for name in group]})
