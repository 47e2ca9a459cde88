"""What a Determined checkpoint holds beside Determined's own: Lightning's keys, and what is needed to continue exactly.

``state_dict.pth`` is a Lightning checkpoint as well. Its tensors are the ones that Determined saves under names of its
own; ``torch.save`` writes a shared storage once.
"""

from __future__ import annotations

from typing import Any, Final

from torch import Tensor
from torchmetrics import Metric

from lightning_shim._lightning import Lightning, hyperparameters_name
from lightning_shim.hooks import Hooks
from lightning_shim.metrics import MetricCollector, MetricViews
from lightning_shim.progress import Progress
from lightning_shim.training_loop import TrainingLoop

CALLBACKS_KEY: Final = "lightning_callbacks"


class CheckpointState:
    """Saves and restores a trial's state.

    Args:
        lightning: The module's Lightning.
        module: The LightningModule.
        datamodule: The LightningDataModule, if there is one.
        callbacks: The Lightning callbacks.
        hooks: Their hooks and the module's.
        progress: Where training stands.
        training_loop: Knows the loaders' positions.
        collector: Keeps what the running epoch has logged.
        views: What the trainer shows of the metrics.
    """

    def __init__(
        self,
        lightning: Lightning,
        module: Any,
        datamodule: Any,
        callbacks: list[Any],
        hooks: Hooks,
        progress: Progress,
        training_loop: TrainingLoop,
        collector: MetricCollector,
        views: MetricViews,
    ) -> None:
        self._lightning: Final = lightning
        self._module: Final = module
        self._datamodule: Final = datamodule
        self._callbacks: Final = callbacks
        self._hooks: Final = hooks
        self._progress: Final = progress
        self._training_loop: Final = training_loop
        self._collector: Final = collector
        self._views: Final = views
        self._processes: list[dict[str, Any]] = []
        self._loaded: dict[str, Any] | None = None

    def gather(self, distributed: Any) -> None:
        """Collects what each process has of its own; the chief saves it. Called on all processes before a checkpoint.

        Args:
            distributed: Determined's ``DistributedContext``.
        """
        self._processes = distributed.gather(self._process_state())

    def state_dict(self) -> dict[str, Any]:
        """Returns the part that Determined keeps for its callback."""
        return {"progress": self._progress.state_dict(), "processes": self._processes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps what :meth:`state_dict` returned, until it is known whether the trial goes on from there.

        Args:
            state: What was saved.
        """
        self._loaded = state

    def apply(self, rank: int, size: int) -> None:
        """Takes over what was loaded.

        Args:
            rank: The rank of this process.
            size: The number of processes. If it is another than before, no process has a state of its own, and what
                the running epoch has logged by now is lost.
        """
        state, self._loaded = self._loaded, None
        if state is None:
            return
        self._progress.load_state_dict(state["progress"])
        processes = state["processes"]
        own = processes[rank] if len(processes) == size else processes[0]
        self._views.update(MetricViews(**own["views"]))
        self._training_loop.load_state_dict(own["training_loop"])
        if len(processes) != size:
            return
        metrics = self._torchmetrics()
        self._collector.load_state_dict(own["metrics"], metrics)
        parameters = dict(self._module.named_parameters())
        for name, gradient in own["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name].device)
        for name, saved in own["torchmetrics"].items():
            if name in metrics:
                for attribute, value in saved.items():
                    setattr(metrics[name], attribute, value)

    def _process_state(self) -> dict[str, Any]:
        return {
            "training_loop": self._training_loop.state_dict(),
            "metrics": self._collector.state_dict(),
            "views": {name: dict(getattr(self._views, name)) for name in MetricViews.__slots__},
            "gradients": self._gradients(),
            # torchmetrics' private names of the states and of the count of updates.
            "torchmetrics": {
                name: {attribute: getattr(metric, attribute) for attribute in (*metric._defaults, "_update_count")}
                for name, metric in self._torchmetrics().items()
            },
        }

    def _gradients(self) -> dict[str, Tensor]:
        """Returns the gradients that a step to come will use, and those that no optimizer releases; often none."""
        released = set()
        if self._module.automatic_optimization and not self._training_loop.accumulates_gradients:
            groups = (group for optimizer in self._module.trainer.optimizers for group in optimizer.param_groups)
            released = {id(parameter) for group in groups for parameter in group["params"]}
        return {
            name: parameter.grad
            for name, parameter in self._module.named_parameters()
            if parameter.grad is not None and id(parameter) not in released
        }

    def _torchmetrics(self) -> dict[str, Metric]:
        return {name: module for name, module in self._module.named_modules() if isinstance(module, Metric)}

    def add_lightning_keys(self, checkpoint: dict[str, Any]) -> None:
        """Makes Determined's checkpoint one of Lightning's, and calls the ``on_save_checkpoint`` hooks on it.

        Args:
            checkpoint: What Determined is about to save; changed in place.
        """
        checkpoint.update(
            {
                "epoch": self._progress.current_epoch,
                "global_step": self._module.global_step,
                "pytorch-lightning_version": self._lightning.version,
                "state_dict": self._module.state_dict(),
                "optimizer_states": checkpoint["optimizers_state_dict"],
                "lr_schedulers": checkpoint["lr_schedulers_state_dict"],
                CALLBACKS_KEY: {
                    callback.state_key: state for callback in self._callbacks if (state := callback.state_dict())
                },
            }
        )
        for owner in (self._module, self._datamodule):
            if owner is not None and owner.hparams:
                checkpoint[owner.CHECKPOINT_HYPER_PARAMS_KEY] = dict(owner.hparams)
                if hyperparameters_name(owner) is not None:
                    checkpoint[owner.CHECKPOINT_HYPER_PARAMS_NAME] = hyperparameters_name(owner)
        if self._datamodule is not None:
            state = self._datamodule.state_dict()
            if state:
                checkpoint[type(self._datamodule).__qualname__] = state
        self._hooks.call("on_save_checkpoint", checkpoint)
        # What the hooks have made of it is what is to be loaded.
        _prefer_lightning_keys(checkpoint)

    def before_loading(self, checkpoint: dict[str, Any]) -> None:
        """Calls the ``on_load_checkpoint`` hooks, and gives the callbacks and the data module their state.

        Args:
            checkpoint: What Determined has read.
        """
        if self._datamodule is not None and type(self._datamodule).__qualname__ in checkpoint:
            self._datamodule.load_state_dict(checkpoint[type(self._datamodule).__qualname__])
        self._hooks.call("on_load_checkpoint", checkpoint)
        _prefer_lightning_keys(checkpoint)
        states = checkpoint.get(CALLBACKS_KEY, {})
        for callback in self._callbacks:
            if callback.state_key in states:
                callback.load_state_dict(states[callback.state_key])


def _prefer_lightning_keys(checkpoint: dict[str, Any]) -> None:
    if "state_dict" in checkpoint:
        checkpoint["models_state_dict"] = [checkpoint["state_dict"]]
    for ours, theirs in (("optimizer_states", "optimizers_state_dict"), ("lr_schedulers", "lr_schedulers_state_dict")):
        if ours in checkpoint:
            checkpoint[theirs] = checkpoint[ours]
