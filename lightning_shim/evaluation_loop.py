"""Lightning's loop over validation batches, turned inside out: Determined's loop asks, this one answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from torch import nn
from torch.utils.data import DataLoader

from lightning_shim.batches import Batches
from lightning_shim.dataloading import DataSource
from lightning_shim.hooks import Hooks
from lightning_shim.metrics import MetricCollector, MetricViews
from lightning_shim.progress import Progress
from lightning_shim.returned_metrics import ReturnedMetrics
from lightning_shim.strategy import StrategyFacade
from lightning_shim.transfer import BatchTransfer


@dataclass(frozen=True, slots=True)
class EvaluationBatch:
    """A validation batch as the loader gave it, its index, and the index of its loader."""

    batch: Any
    batch_idx: int
    dataloader_idx: int


NOTHING_TO_VALIDATE: Final = EvaluationBatch(None, -1, -1)
"""The one batch of a module without validation: Determined refuses a validation loader that is empty."""


class ValidationLoader(DataLoader[Any]):
    """The loader that Determined iterates; Determined checks that it is a DataLoader, nothing more.

    Args:
        batches: Gives the batches of one validation.
    """

    def __init__(self, batches: Callable[[], Iterator[EvaluationBatch]]) -> None:
        super().__init__([], batch_size=None)  # type: ignore[arg-type]
        self._make_batches = batches

    def __iter__(self) -> Iterator[EvaluationBatch]:  # type: ignore[override]
        return self._make_batches()


class EvaluationLoop:
    """Lightning's ``_EvaluationLoop``, for validation.

    Args:
        source: The validation loaders.
        module: The LightningModule.
        hooks: The module's and the callbacks' hooks.
        progress: Where training stands.
        strategy: Runs the step.
        collector: Keeps what is logged in validation.
        returned_metrics: Keeps what is returned instead.
        views: What the trainer shows of the metrics.
        transfer: Brings batches to the device.
        takes_batch_idx: Whether ``validation_step`` has a parameter for the batch's index.
        is_enabled: Whether there is anything to validate.
    """

    def __init__(
        self,
        source: DataSource,
        module: nn.Module,
        hooks: Hooks,
        progress: Progress,
        strategy: StrategyFacade,
        collector: MetricCollector,
        returned_metrics: ReturnedMetrics,
        views: MetricViews,
        transfer: BatchTransfer,
        takes_batch_idx: bool,
        is_enabled: bool,
    ) -> None:
        self.source: Final = source
        self._module: Final = module
        self._hooks: Final = hooks
        self._progress: Final = progress
        self._strategy: Final = strategy
        self._collector: Final = collector
        self._returned_metrics: Final = returned_metrics
        self._views: Final = views
        self._transfer: Final = transfer
        self._takes_batch_idx: Final = takes_batch_idx
        self._keeps_outputs: Final = hooks.overridden("validation_epoch_end")
        self._is_enabled = is_enabled
        self._batches: Batches | None = None
        self._modes: dict[str, bool] = {}
        # By loader: what validation_step has returned, for validation_epoch_end of Lightning 1.x.
        self._outputs: list[list[Any]] = []

    @property
    def is_enabled(self) -> bool:
        """Whether there is anything to validate; loaders that turn out to be empty disable it."""
        return self._is_enabled

    def set_up(self) -> None:
        """Asks for the loaders, unless that has been done."""
        if self._is_enabled and not self.source.is_set_up:
            self.source.set_up()
            self._is_enabled = sum(self.source.num_batches) > 0

    def start(self, releases_gradients: bool) -> None:
        """Starts a validation.

        Args:
            releases_gradients: Whether no gradients are being accumulated at this moment.
        """
        if not self._is_enabled:
            return
        if releases_gradients:
            self._hooks.module_or_default("on_validation_model_zero_grad")
        self.set_up()
        self._progress.has_validated = True
        self.source.set_epoch(self._progress.current_epoch)
        self._batches = self.source.batches()
        self._outputs = [[] for _ in self.source.num_batches]
        self._modes = {name: submodule.training for name, submodule in self._module.named_modules()}
        self._hooks.module_or_default("on_validation_model_eval")
        self._hooks.call("on_validation_start")

    def start_epoch(self) -> None:
        """Calls ``on_validation_epoch_start``."""
        if self._is_enabled:
            self._hooks.call("on_epoch_start")
            self._hooks.call("on_validation_epoch_start")

    def batches(self) -> Iterator[EvaluationBatch]:
        """Yields the batches of the validation that has been started."""
        if not self._is_enabled:
            yield NOTHING_TO_VALIDATE
            return
        assert self._batches is not None
        previous = 0
        for batch, batch_idx, dataloader_idx, _ in self._batches:
            if dataloader_idx != previous:
                self._collector.end_dataloader()
                self._views.update(self._collector.collect(on_step=False))
                previous = dataloader_idx
            yield EvaluationBatch(batch, batch_idx, dataloader_idx)

    def evaluate_batch(self, evaluated: EvaluationBatch) -> None:
        """Validates a batch.

        Args:
            evaluated: What :meth:`batches` yielded.
        """
        if evaluated is NOTHING_TO_VALIDATE:
            return
        batch_idx, dataloader_idx = evaluated.batch_idx, evaluated.dataloader_idx
        has_several = self.source.has_several
        batch = self._transfer(evaluated.batch, dataloader_idx)
        self._collector.start_batch(batch, dataloader_idx if has_several else None)
        args = (batch, batch_idx, dataloader_idx) if has_several else (batch, batch_idx)
        self._hooks.call("on_validation_batch_start", *args)
        step_args = args if self._takes_batch_idx else (args[0], *args[2:])
        output = self._hooks.run("validation_step", self._strategy.validation_step, *step_args)
        output = self._hooks.end_of_step("validation_step_end", output)
        self._hooks.call("on_validation_batch_end", output, *args)
        if output is not None:
            if self._keeps_outputs:
                self._outputs[dataloader_idx].append(output)
            self._returned_metrics.keep(output, dataloader_idx if has_several else None)
        self._views.update(self._collector.collect(on_step=True))
        self._collector.end_batch()

    def end_epoch(self) -> None:
        """Calls ``on_validation_epoch_end``; the metrics are complete after it."""
        if self._is_enabled:
            self._collector.end_dataloader()
            self._views.update(self._collector.collect(on_step=False))
            self._collector.end_batches()
            if self._keeps_outputs:
                outputs, self._outputs = self._outputs, []
                self._hooks.module("validation_epoch_end", outputs if self.source.has_several else outputs[0])
            self._hooks.call("on_validation_epoch_end")
            self._hooks.call("on_epoch_end")

    def end(self) -> None:
        """Ends the validation and gives the module its modes back."""
        if not self._is_enabled:
            return
        self._hooks.call("on_validation_end")
        self._collector.reset()
        self._returned_metrics.reset()
        if self._hooks.overridden("on_validation_model_train"):
            self._hooks.module("on_validation_model_train")
            return
        for name, submodule in self._module.named_modules():
            submodule.training = self._modes.get(name, submodule.training)

    def number_of_samples(self, evaluated: Any, batch_size_of: Callable[[Any], int]) -> int:
        """Counts the samples of a batch, for Determined's log.

        Args:
            evaluated: What :meth:`batches` yielded.
            batch_size_of: Lightning's ``extract_batch_size``.

        Returns:
            The number, or 1 if it cannot be told.
        """
        try:
            return batch_size_of(evaluated.batch)
        except Exception:
            return 1
