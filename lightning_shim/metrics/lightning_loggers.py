"""Lightning's own loggers, which run beside Determined's and get what they would get under Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

from lightning_shim.session.progress import Progress
from lightning_shim.upstream.lightning import Lightning


class Loggers:
    """What Lightning's ``_LoggerConnector`` and its hooks do with the loggers of a Trainer.

    Args:
        lightning: The module's Lightning.
        loggers: The user's loggers.
        progress: Where training stands.
    """

    def __init__(self, lightning: Lightning, loggers: list[Any], progress: Progress) -> None:
        self._lightning: Final = lightning
        self.loggers: Final = loggers
        self._progress: Final = progress

    def start(self) -> None:
        """Has each logger make its experiment, before ``setup`` is called; wandb's before TensorBoard's writers."""
        for logger in sorted(self.loggers, key=lambda logger: not isinstance(logger, self._lightning.WandbLogger)):
            if hasattr(logger, "experiment"):
                _ = logger.experiment

    def log_hyperparams(self, module: Any, datamodule: Any) -> None:
        """Gives the loggers the hyperparameters of module and data module, and the graph.

        Args:
            module: The LightningModule.
            datamodule: The LightningDataModule, if there is one.
        """
        self._lightning.log_hyperparams(
            SimpleNamespace(loggers=self.loggers, lightning_module=module, datamodule=datamodule)
        )

    def log_metrics(self, metrics: Mapping[str, Any], steps_back: int = 0) -> None:
        """Gives the loggers metrics, with the epoch and under the step under which Lightning would.

        Args:
            metrics: Tensors by name.
            steps_back: How many steps before the present one they belong to.
        """
        if not self.loggers or not metrics:
            return
        values = {name: value.item() for name, value in metrics.items()}
        step = values.pop("step", None)
        if step is None:
            values.setdefault("epoch", self._progress.current_epoch)
            step = self._progress.batches_that_stepped - steps_back
        for logger in self.loggers:
            logger.log_metrics(metrics=values, step=int(step))
            logger.save()

    def finalize(self, status: str) -> None:
        """Tells the loggers that the process ends.

        Args:
            status: ``"success"`` or ``"failed"``, as in Lightning.
        """
        for logger in self.loggers:
            logger.finalize(status)
