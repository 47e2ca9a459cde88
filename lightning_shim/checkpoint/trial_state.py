"""What a Determined checkpoint holds beside Determined's own: what is needed to continue exactly, and Lightning's keys.

``state_dict.pth`` is a Lightning checkpoint as well. Its tensors are the ones that Determined saves under names of its
own; ``torch.save`` writes a shared storage once.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any, Final

from torch import Tensor
from torch.optim import Optimizer
from torchmetrics import Metric, MetricTracker

from lightning_shim.checkpoint.attributes import FLAGS_OF_LAYERS, OwnAttributes
from lightning_shim.checkpoint.lightning_format import without_arrays
from lightning_shim.checkpoint.weight_averaging import WeightAveragingState
from lightning_shim.compatibility.inspection import may_change_optimization
from lightning_shim.loop.runtime import Runtime
from lightning_shim.loop.training import TrainingLoop
from lightning_shim.metrics.collector import MetricViews

STATE_KEY: Final = "lightning_shim"
"""Where it stands in the checkpoint."""

_FLAGS_OF_MODULES: Final = ("training", *FLAGS_OF_LAYERS)
"""What hooks change of submodules, torch.nn's batch normalisation among them: freezing, unfreezing, averaging."""


class TrialState:
    """Saves and restores what a trial needs to continue exactly.

    Args:
        runtime: The parts whose state is saved.
        training_loop: Knows the loaders' positions.
        averaging: Knows what a callback that averages weights needs.
        attributes: Keeps what module and callbacks have in attributes of their own.
    """

    def __init__(
        self,
        runtime: Runtime,
        training_loop: TrainingLoop,
        averaging: WeightAveragingState,
        attributes: OwnAttributes,
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
        self._initial_flags: dict[str, Any] = {}

    def start(self) -> None:
        """Looks at what hooks may change later, and a module that is built anew does not know."""
        self._initial_flags = self._flags()

    def gather(self) -> None:
        """Collects what each process has of its own, before the chief saves it; called on all processes."""
        self._processes = self._session.context.distributed.gather(self._process_state())

    def save(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state to a checkpoint.

        Args:
            checkpoint: What Determined is about to save; changed in place.
        """
        flags = {name: flag for name, flag in self._flags().items() if flag is not self._initial_flags.get(name)}
        state = {
            "progress": self._progress.state_dict(),
            "flags": flags,
            "parameter_groups": names_of_groups(self._module, self._strategy.optimizers),
            "processes": self._processes,
        }
        checkpoint[STATE_KEY] = without_arrays(state)

    def load(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the state until it is known whether the trial goes on from there, and makes room for the optimizers'.

        Args:
            checkpoint: What Determined has read.
        """
        self._loaded = checkpoint.get(STATE_KEY)
        if self._loaded is not None:
            add_missing_groups(self._module, self._strategy.optimizers, self._loaded["parameter_groups"])

    def apply(self) -> bool:
        """Takes over what was loaded.

        If the number of processes is another than before, or if the loaders have another length, no process has a state
        of its own: what the running epoch has logged by now is lost, and it goes on after the same part of its batches.

        Returns:
            Whether there was something.
        """
        state, self._loaded = self._loaded, None
        if state is None:
            return False
        rank, size = self._session.global_rank, self._session.world_size
        self._progress.load_state_dict(state["progress"])
        self._averaging.apply()
        self._restore_flags(state["flags"])
        processes = state["processes"]
        self._attributes.load(processes[rank if len(processes) == size else 0]["attributes"])
        if len(processes) != size or not self._training_loop.can_go_on(processes[rank]["training_loop"]):
            self._metrics.views.update(MetricViews(**processes[0]["views"]))
            self._training_loop.continue_elsewhere(processes[0]["training_loop"], len(processes), size)
            return True
        own = processes[rank]
        self._metrics.views.update(MetricViews(**own["views"]))
        self._training_loop.load_state_dict(own["training_loop"])
        for name, tracker in self._trackers().items():
            # Each pass has a copy of the metrics, which a module that is built anew does not have.
            for _ in range(own["trackers"].get(name, 0) - tracker.n_steps):
                tracker.increment()
        metrics = self._torchmetrics()
        self._metrics.training.load_state_dict(own["metrics"], metrics)
        parameters = dict(self._module.named_parameters())
        for name, gradient in own["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name].device)
        for name, saved in own["torchmetrics"].items():
            if name in metrics:
                for attribute, value in saved.items():
                    # Metrics of a MetricCollection may have shared their states, and do not when they are new.
                    setattr(metrics[name], attribute, copy.deepcopy(value))
        return True

    def _flags(self) -> dict[str, Any]:
        """Returns which parameters are trained, and how; in which mode submodules are; how layers keep statistics."""
        trained = {f"requires_grad {name}": entry.requires_grad for name, entry in self._module.named_parameters()}
        # The name of the module among its submodules is empty.
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
        """Returns the gradients that a step to come will use, and those that no optimizer releases; often none."""
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
        """Tells whether a step to come may use the gradients that automatic optimization has left."""
        # They are released at an epoch's first batch, and within it where an accumulation begins. If more batches are
        # accumulated from the next one on, or it is optimized by hand, it may add to what a step has used already.
        return (
            self._training_loop.accumulates_gradients
            or self._averaging.needs_gradients(self._progress.current_epoch)
            or self._optimization_may_change
        )

    @functools.cached_property
    def _optimization_may_change(self) -> bool:
        """Whether code of the user's may change what becomes of gradients."""
        return may_change_optimization([self._module, self._session.datamodule, *self._session.callbacks])

    def _trackers(self) -> dict[str, MetricTracker]:
        return {name: module for name, module in self._module.named_modules() if isinstance(module, MetricTracker)}

    def _torchmetrics(self) -> dict[str, Metric]:
        return {name: module for name, module in self._module.named_modules() if isinstance(module, Metric)}


Names = list[list[list[str]]]
"""The names of the parameters, by group, by optimizer."""


def names_of_groups(module: Any, optimizers: Sequence[Optimizer]) -> Names:
    """Says which parameters are in which group.

    Args:
        module: The LightningModule.
        optimizers: Its optimizers.

    Returns:
        The parameters' names; of a parameter that is not the module's, an empty one.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    return [
        [[names.get(id(parameter), "") for parameter in group["params"]] for group in optimizer.param_groups]
        for optimizer in optimizers
    ]


def add_missing_groups(module: Any, optimizers: Sequence[Optimizer], names: Names) -> None:
    """Adds the groups that optimizers had beyond those they have; their state and settings are loaded afterwards.

    Args:
        module: The LightningModule.
        optimizers: Its optimizers.
        names: What :func:`names_of_groups` returned. What does not fit is left to whoever loads the optimizers' states.
    """
    parameters = dict(module.named_parameters())
    for optimizer, groups in zip(optimizers, names, strict=False):
        for group in groups[len(optimizer.param_groups) :]:
            if parameters.keys() >= set(group):
                optimizer.add_param_group({"params": [parameters[name] for name in group]})
