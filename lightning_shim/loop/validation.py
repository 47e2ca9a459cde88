"""Lightning's loop over validation batches, turned inside out: Determined's loop calls, this one answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from torch.utils.data import DataLoader

from lightning_shim.compatibility.before_training import takes_batch_idx, warn_about_validation
from lightning_shim.data.passes import Batches, DataFetcherWrapper
from lightning_shim.data.source import DataSource
from lightning_shim.loop.runtime import Runtime
from lightning_shim.metrics.lightning_loggers import Loggers
from lightning_shim.patching.attachment import CURRENT_FX_ATTRIBUTE
from lightning_shim.session.profiling import Profiling

_HOOKS_OF_A_BATCH: Final = ("on_validation_batch_start", "validation_step_end", "on_validation_batch_end")


@dataclass(frozen=True, slots=True)
class Validation:
    """A whole validation, which Determined takes for a single batch.

    For each batch Determined inspects signatures and compares names, which takes as long as a small layer.
    """

    batches: int  # the number of batches that this process has evaluated


class ValidationLoader(DataLoader[Any]):
    """The validation loader that Determined sees. Determined checks that it is a DataLoader, and nothing else."""

    def __init__(self, validate: Callable[[], Validation]) -> None:
        super().__init__([], batch_size=None)  # type: ignore[arg-type]
        self._validate = validate

    def __iter__(self) -> Iterator[Validation]:  # type: ignore[override]
        # Yielded even if there are no batches: Determined refuses an empty validation loader.
        yield self._validate()


class EvaluationLoop:
    """Lightning's ``_EvaluationLoop``, for validation.

    Attributes:
        source: The validation loaders.
        is_enabled: Whether there is anything to validate; loaders that turn out to be empty disable it.
        goes_on: Whether the next validation goes on that a checkpoint of Lightning's was written in.
    """

    def __init__(self, runtime: Runtime, source: DataSource, loggers: Loggers) -> None:
        hooks = runtime.hooks
        self.source: Final = source
        self._session: Final = runtime.session
        self._module: Final[Any] = runtime.session.module
        self._hooks: Final = hooks
        self._progress: Final = runtime.session.progress
        self._strategy: Final = runtime.strategy
        self._metrics: Final = runtime.metrics
        self._loggers: Final = loggers
        self._transfer: Final = runtime.transfer
        self._keeps_outputs: Final = hooks.overridden("validation_epoch_end")
        self._has_step: Final = hooks.overridden("validation_step")
        self._takes_batch_idx: Final = self._has_step and takes_batch_idx(self._module.validation_step)
        self.is_enabled = source.request.is_defined and self._has_step and not source.is_switched_off
        self.goes_on = False
        self._batches: Batches | None = None
        self._has_several = False
        self._modes: dict[str, bool] = {}
        # By loader, the outputs of validation_step for Lightning 1.x's validation_epoch_end.
        self._outputs: list[list[Any]] = []

    def warn_if_incomplete(self) -> None:
        """Warns if there are loaders but no ``validation_step``, or the other way round."""
        warn_about_validation(self.source.request.is_defined, self._has_step)

    def set_up(self) -> None:
        """Requests the loaders if that is due."""
        were_there = self.source.loaders is not None
        if self.is_enabled and self.source.set_up(self._session.validates_in_epoch):
            if were_there:
                # As in Lightning, other loaders are counted anew; after a pause they are the same ones.
                self._progress.validation_batches.clear()
            self.is_enabled = sum(self.source.num_batches) > 0

    def leave_out(self) -> None:
        """Makes the loaders' iterators for a validation that Lightning counts and does not run, as it does."""
        if self.is_enabled:
            self.source.set_epoch(self._progress.current_epoch)
            self.source.batches()

    def start(self, releases_gradients: bool, limit: int | float = math.inf) -> None:
        """Starts a validation of at most ``limit`` batches of each loader.

        Gradients may be released if none are being accumulated.
        """
        if not self.is_enabled:
            return
        if releases_gradients:
            self._hooks.module_or_default("on_validation_model_zero_grad")
        self.set_up()
        self._progress.has_validated = False
        self._progress.corrections.pop("validated", None)
        if not self.goes_on:
            self.forget()
        self.source.set_epoch(self._progress.current_epoch)
        self._batches = self.source.batches(limit)
        # As in Lightning, a validation that a checkpoint was written in takes as many batches as were left.
        self._batches.fetched += self._progress.validated
        self.goes_on = False
        self._has_several = self.source.has_several
        self._outputs = [[] for _ in self.source.num_batches]
        self._modes = {name: submodule.training for name, submodule in self._module.named_modules()}
        self._show(limit)
        self._hooks.module_or_default("on_validation_model_eval")
        self._hooks.call("on_validation_start")

    def _show(self, limit: int | float) -> None:
        """Opens the progress bar of a validation."""
        bar = self._session.progress_bar
        if bar is not None:
            total = sum(min(limit, batches) for batches in self.source.num_batches)
            description = "Sanity check" if self._session.trainer.sanity_checking else "Validation"
            bar.start_validation(description, None if total == math.inf else int(total))

    def start_epoch(self) -> None:
        """Calls ``on_validation_epoch_start``."""
        if self.is_enabled:
            self._hooks.call("on_epoch_start")
            self._hooks.call("on_validation_epoch_start")

    def run(self, only_one: bool) -> Validation:
        """Evaluates the batches of the validation that has been started, or only the first one."""
        if not self.is_enabled or self._batches is None:
            return Validation(0)
        return Validation(self._evaluate(self._batches, only_one))

    def _evaluate(self, batches: Batches, only_one: bool) -> int:
        """Evaluates batches until there are no more, or only the first one, and returns how many it has evaluated."""
        # Looked up once for all batches: a small layer takes as long as thirty such questions.
        hooks, collector, state = self._hooks, self._metrics.validation, self._hooks.state
        has_several, takes_batch_idx, transfer = self._has_several, self._takes_batch_idx, self._transfer
        starts, ends_step, ends = (name in hooks.names for name in _HOOKS_OF_A_BATCH)
        owner = self._module if self._strategy.calls_directly else self._strategy
        trainer, progress, bar = self._session.trainer, self._progress, self._session.progress_bar
        counts, reports_returned = not trainer.sanity_checking, not trainer.barebones
        iterator = batches if isinstance(batches, DataFetcherWrapper) else None
        current = evaluated = 0
        try:
            for batch, batch_idx, dataloader_idx in self._each_of(batches, iterator):
                progress.is_last_validated = batches.done
                if dataloader_idx != current:
                    self._end_dataloader()
                    current = dataloader_idx
                progress.validated += 1
                progress.validated_in_epoch += 1
                if iterator is None:
                    batch = transfer(batch, dataloader_idx)
                collector.start_batch(batch, dataloader_idx if has_several else None)
                args: tuple[Any, ...] = (batch, batch_idx, dataloader_idx) if has_several else (batch, batch_idx)
                if starts:
                    hooks.call("on_validation_batch_start", *args)
                # As hooks.run, without its call.
                outer = state[CURRENT_FX_ATTRIBUTE]
                state[CURRENT_FX_ATTRIBUTE] = "validation_step"
                if iterator is not None:
                    output = owner.validation_step(iterator)
                    args = (iterator.batch, iterator.batch_idx, iterator.dataloader_idx)[: len(args)]
                elif takes_batch_idx:
                    output = owner.validation_step(*args)
                else:
                    output = owner.validation_step(batch, *args[2:])
                state[CURRENT_FX_ATTRIBUTE] = outer
                if ends_step:
                    output = hooks.end_of_step("validation_step_end", output)
                if ends:
                    hooks.call("on_validation_batch_end", output, *args)
                if output is not None:
                    if self._keeps_outputs:
                        self._outputs[dataloader_idx].append(output)
                    if reports_returned:
                        self._metrics.returned.keep(output, dataloader_idx if has_several else None)
                collector.end_batch()
                if self._loggers.loggers and counts:
                    self._loggers.log_validation_step(collector.collect(on_step=True).logged, dataloader_idx)
                progress.has_validated = counts
                if bar is not None:
                    bar.advance_validation()
                if not progress.is_last_validated:
                    self._session.heed_sigterm()
                evaluated += 1
                if only_one:
                    break
        except StopIteration:
            # As in Lightning, whoever raises it ends the validation: it is next(dataloader_iter) as a rule.
            pass
        except BaseException as error:
            progress.has_broken_validation = not isinstance(error, self._session.lightning.SIGTERMException)
            raise
        return evaluated

    def _each_of(self, batches: Batches, iterator: DataFetcherWrapper | None) -> Iterator[tuple[Any, int, int]]:
        if iterator is not None:
            return _before_each_step(iterator)
        return _measured(batches, self._session.profiling) if self._session.profiling.is_on else batches

    def _end_dataloader(self) -> None:
        """Puts a loader's values into the views: first those of its last batch, then those of all its batches."""
        self._metrics.views.update(self._metrics.validation.collect(on_step=True))
        self._metrics.validation.end_dataloader()
        if not self._session.trainer.sanity_checking:
            self._metrics.views.update(self._metrics.validation.collect(on_step=False))

    def end_epoch(self) -> None:
        """Calls ``on_validation_epoch_end``, after which the metrics are complete."""
        if self.is_enabled:
            self._end_dataloader()
            self._metrics.validation.end_batches()
            self._metrics.synchronise()
            if self._keeps_outputs:
                outputs, self._outputs = self._outputs, []
                self._hooks.module("validation_epoch_end", outputs if self._has_several else outputs[0])
            self._hooks.call("on_validation_epoch_end")
            self._hooks.call("on_epoch_end")

    def forget(self) -> None:
        """Forgets that there has been a validation."""
        self._progress.validated = 0
        self._progress.is_last_validated = False

    def end(self) -> None:
        """Ends the validation and restores the modes of the module and its submodules."""
        if not self.is_enabled:
            return
        if self._session.progress_bar is not None:
            self._session.progress_bar.end_validation()
        self._hooks.call("on_validation_end")
        self._metrics.validation.reset()
        self._metrics.returned.reset()
        # Not module.train(): a frozen submodule stays in the mode that the user chose, as in Lightning.
        if self._hooks.overridden("on_validation_model_train"):
            self._hooks.module("on_validation_model_train")
            return
        for name, submodule in self._module.named_modules():
            submodule.training = self._modes.get(name, submodule.training)


def _measured(batches: Batches, profiling: Profiling) -> Iterator[tuple[Any, int, int]]:
    """Yields batches whose loading a profiler measures."""
    while not batches.done:
        with profiling.action("[_EvaluationLoop].val_next"):
            batch = next(batches)
        yield batch


def _before_each_step(iterator: DataFetcherWrapper) -> Iterator[tuple[Any, int, int]]:
    """Yields what the step before has taken, which the hooks get, as long as there may be more to take."""
    while not iterator.done:
        yield iterator.batch, iterator.batch_idx, iterator.dataloader_idx
