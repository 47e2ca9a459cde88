"""Lightning's own loggers, which run beside Determined's and receive the same as under Lightning."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Final

from torch import Tensor

from lightning_shim.diagnostics.writable import verify_writable
from lightning_shim.session.progress import Progress
from lightning_shim.upstream.lightning import Lightning
from lightning_shim.upstream.namespaces import derives_from


class Loggers:
    """The loggers of a Trainer, called as Lightning's ``_LoggerConnector`` and its hooks do."""

    def __init__(self, lightning: Lightning, loggers: list[Any], progress: Progress) -> None:
        self._lightning: Final = lightning
        self.loggers: Final = loggers
        self._progress: Final = progress

    def start(self) -> None:
        """Has each logger create its experiment, before ``setup`` is called."""
        for logger in self.loggers:
            if any(derives_from(logger, name) for name in ("TensorBoardLogger", "CSVLogger")):
                verify_writable(logger.save_dir, f"{type(logger).__name__}(save_dir=...)")
        # wandb comes first: it can follow TensorBoard's writers only if they are created later.
        for logger in sorted(self.loggers, key=lambda logger: not derives_from(logger, "WandbLogger")):
            if hasattr(logger, "experiment"):
                _ = logger.experiment

    def log_hyperparams(self, module: Any, datamodule: Any) -> None:
        """Passes the hyperparameters of module and data module to the loggers, and the module's graph."""
        self._lightning.log_hyperparams(
            SimpleNamespace(loggers=self.loggers, lightning_module=module, datamodule=datamodule)
        )

    def log_metrics(
        self,
        metrics: Mapping[str, Any],
        steps_back: int = 0,
        step: int | None = None,
        loggers: list[Any] | None = None,
    ) -> None:
        """Passes metrics to the loggers, with Lightning's epoch and its step, or that ``steps_back`` before it."""
        loggers = self.loggers if loggers is None else loggers
        if not loggers or not metrics:
            return
        values: dict[str, Any] = {
            name: value.item() if isinstance(value, Tensor) else value for name, value in metrics.items()
        }
        if step is None:
            step = values.pop("step", None)
        if step is None:
            values.setdefault("epoch", self._progress.current_epoch)
            step = self._progress.batches_that_stepped - steps_back
        self._log(values, int(step), loggers)

    def log_validation_step(self, metrics: Mapping[str, Any], dataloader_idx: int) -> None:
        """Passes what a validation batch has logged to the loggers, under the count of its loader's batches."""
        counts = self._progress.validation_batches
        step = counts.get(dataloader_idx, 0)
        counts[dataloader_idx] = step + 1
        if metrics:
            self._log({name: value.item() for name, value in metrics.items()}, step, self.loggers)

    @staticmethod
    def _log(values: dict[str, Any], step: int, loggers: list[Any]) -> None:
        for logger in loggers:
            logger.log_metrics(metrics=values, step=step)
            logger.save()

    def save(self) -> None:
        """Has each logger write what it has."""
        for logger in self.loggers:
            logger.save()

    def finalize(self, status: str) -> None:
        """Closes the loggers at the end of the process: ``"success"`` or ``"failed"``, as in Lightning."""
        for logger in self.loggers:
            logger.finalize(status)
