"""The counters of Lightning's loops in what a script's Trainer saves, during ``fit``, after an error and after it."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from tests.script.test_trainer_object import ARGUMENTS, Module, loader


class Scheduled(Module):
    """A module with a scheduler of steps."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Saving(Callback):
    """A callback that saves in hooks, as ModelCheckpoint and OnExceptionCheckpoint do."""

    def __init__(self) -> None:
        self.saved: list[Any] = []

    def save(self, trainer: Any) -> None:
        trainer.save_checkpoint("saved.ckpt")
        saved = torch.load("saved.ckpt", weights_only=False)
        self.saved.append((saved["global_step"], saved["epoch"], saved["loops"]["fit_loop"]))

    def on_before_optimizer_step(self, trainer: Any, *args: Any) -> None:
        self.save(trainer)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.save(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.save(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.save(trainer)

    def on_exception(self, trainer: Any, *args: Any) -> None:
        self.save(trainer)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("at_hook", "at_batch"),
    [
        (None, None),
        ("training_step", 6),
        ("training_step", 7),
        ("on_train_batch_end", 6),
        ("on_train_epoch_end", 4),
        ("validation_step", 6),
    ],
)
def test_counters(compared: Any, at_hook: str | None, at_batch: int | None, accumulate: int) -> None:
    def script() -> Any:
        calls = 0

        def act(hook: str, module: Any) -> None:
            nonlocal calls
            calls += hook == "training_step"
            if hook == at_hook and calls - (hook == "training_step") == at_batch:
                raise RuntimeError("out of memory")

        saving = Saving()
        trainer = pl.Trainer(
            **ARGUMENTS, accumulate_grad_batches=accumulate, val_check_interval=0.5, callbacks=[saving]
        )
        try:
            trainer.fit(Scheduled(act), loader(), loader(2))
        except RuntimeError:
            assert at_hook is not None
        saving.save(trainer)
        continued = Saving()
        other = pl.Trainer(**{**ARGUMENTS, "max_epochs": 3}, callbacks=[continued], accumulate_grad_batches=accumulate)
        other.fit(Scheduled(), loader(), loader(2), ckpt_path="saved.ckpt")
        return [*saving.saved, [entry[:2] for entry in continued.saved[-3:]], other.global_step]

    compared(script)


@pytest.mark.lightning(">=2.6")
def test_counters_of_epochs_that_end_early(compared: Any) -> None:
    class Refuses(Scheduled):
        def __init__(self) -> None:
            super().__init__()
            self.save_hyperparameters({"given": 1})

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            # In the second epoch it is the last batch that is refused.
            return -1 if batch_idx == 2 + self.current_epoch else None

    def script() -> Any:
        saving = Saving()
        pl.Trainer(**{**ARGUMENTS, "max_epochs": 3}, callbacks=[saving]).fit(Refuses(), loader(), loader(2))
        contents = torch.load("saved.ckpt", weights_only=False)
        return [*saving.saved, {name: value for name, value in contents.items() if name != "callbacks"}]

    assert compared(script)[-1]["hparams_name"] is None


class Looking(Saving):
    """A callback that also keeps what can be seen of the loops before an epoch."""

    def look(self, trainer: Any) -> None:
        loop = trainer.fit_loop
        seen = [trainer.num_training_batches, trainer.num_val_batches, trainer.num_sanity_val_batches]
        seen += [trainer.is_last_batch, loop.epoch_loop.batch_idx, loop.epoch_loop.batch_progress.current.ready]
        self.saved.append([*seen, loop.epoch_loop.total_batch_idx, loop.epoch_progress.current.ready])

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.look(trainer)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.look(trainer)

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.look(trainer)

    def on_validation_batch_end(self, trainer: Any, *args: Any) -> None:
        # Also in the sanity check.
        self.save(trainer)


@pytest.mark.parametrize("at_batch", [None, 6])
def test_counters_of_another_fit(compared: Any, at_batch: int | None) -> None:
    def script() -> Any:
        batches = 0

        def act(hook: str, module: Any) -> None:
            nonlocal batches
            batches += hook == "training_step"
            if hook == "training_step" and batches == at_batch:
                raise RuntimeError("out of memory")

        looking, module = Looking(), Scheduled(act)
        arguments = {**ARGUMENTS, "num_sanity_val_steps": 1}
        trainer = pl.Trainer(**arguments, accumulate_grad_batches=3, callbacks=[looking])
        try:
            trainer.fit(module, loader(), loader(2))
        except RuntimeError:
            assert at_batch is not None
        trainer.fit_loop.max_epochs += 1
        for _ in range(2):
            # The second time there is nothing left to train.
            trainer.fit(module, loader(), loader(2))
            looking.save(trainer)
            looking.look(trainer)
        return looking.saved

    compared(script)


def test_loggers_save_while_a_stop_is_pending(compared: Any) -> None:
    class Logger(pl.loggers.CSVLogger):
        def save(self) -> None:
            saves.append(module.trainer.global_step)

    saves: list[int] = []
    module = Module()

    def act(hook: str, module: Any) -> None:
        module.trainer.should_stop |= module.trainer.global_step == 2

    def script() -> list[int]:
        nonlocal module
        saves.clear()
        module = Module(act)
        trainer = pl.Trainer(**{**ARGUMENTS, "logger": Logger("."), "log_every_n_steps": 4}, min_epochs=2)
        trainer.fit(module, loader(), loader(2))
        return list(saves)

    assert {3, 5, 6, 7} <= set(compared(script))


def test_a_checkpoint_with_another_number_of_schedulers(compared: Any) -> None:
    class Unscheduled(Scheduled):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers()["optimizer"]

    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)
        trainer.fit(Scheduled(), loader(), loader(2))
        trainer.save_checkpoint("scheduled.ckpt")
        module = Unscheduled()
        pl.Trainer(**{**ARGUMENTS, "max_epochs": 3}).fit(module, loader(), loader(2), ckpt_path="scheduled.ckpt")
        return module.state_dict()

    compared(script)
