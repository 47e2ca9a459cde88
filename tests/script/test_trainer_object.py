"""The script's own Trainer during ``fit``, after an error and in a second ``fit`` is as Lightning has it."""

from __future__ import annotations

import copy
import operator
import os
import pickle
import signal
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from pytorch_lightning.tuner import Tuner
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.script import fit

ARGUMENTS: dict[str, Any] = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "logger": False,
    "num_sanity_val_steps": 1,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
ATTRIBUTES = (
    "current_epoch",
    "global_step",
    "training",
    "validating",
    "sanity_checking",
    "should_stop",
    "is_last_batch",
    "num_val_batches",
    "interrupted",
    "estimated_stepping_batches",
    "max_epochs",
    "enable_validation",
    "accumulate_grad_batches",
)


class Module(pl.LightningModule):
    """A module that calls a function in its hooks."""

    def __init__(self, act: Callable[[str, Any], Any] = lambda hook, module: None, lr: float = 0.1) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.act = act
        self.lr = lr

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.act("training_step", self)
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.act("validation_step", self)
        self.log("val_loss", self.layer(batch[0]).mean())

    def on_train_batch_end(self, *args: Any) -> None:
        self.act("on_train_batch_end", self)

    def on_train_epoch_end(self) -> None:
        self.act("on_train_epoch_end", self)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.lr)


class Exceptions(pl.Callback):
    """A callback that sees errors."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        pl_module.act(f"on_exception {exception!r}", pl_module)


def loader(batches: int = 4) -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(batches * 3.0).view(-1, 3) / 10))


def attributes(trainer: Any) -> dict[str, Any]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    values = {name: getattr(trainer, name) for name in ATTRIBUTES}
    return {**values, "metrics": metrics, "state": str(trainer.state), "optimizers": len(trainer.optimizers)}


def counts(fit_loop: Any) -> list[tuple[int, ...]]:
    """Returns what Lightning counts of epochs, batches and batches of validation."""
    progress = (each.batch_progress for each in (fit_loop.epoch_loop, fit_loop.epoch_loop.val_loop))
    parts = [part for each in (fit_loop.epoch_progress, *progress) for part in (each.current, each.total)]
    return [(part.ready, part.started, part.processed, part.completed) for part in parts]


def test_attributes_by_reference(compared: Any) -> None:
    def script() -> Any:
        seen = []
        trainer = pl.Trainer(**ARGUMENTS)
        trainer.fit(Module(lambda hook, module: seen.append((hook, attributes(trainer)))), loader(), loader(2))
        return [*seen, attributes(trainer)]

    seen = compared(script)
    assert {entry[1]["training"] for entry in seen[:-1]} == {True, False}


def test_counts_of_loops_by_reference(compared: Any) -> None:
    """Of loops that a script may have referred to before ``fit``, too; a copy shows them as well."""

    def script() -> Any:
        seen = []
        trainer = pl.Trainer(**ARGUMENTS)
        loop = trainer.fit_loop

        def look(hook: str, module: Any) -> None:
            seen.append((hook, counts(loop)))
            if hook == "on_train_epoch_end":
                seen.append((hook, copy.deepcopy(trainer).fit_loop.epoch_progress.current.ready))

        trainer.fit(Module(look), loader(), loader(2))
        return seen, loop.epoch_progress.current.completed

    seen, epochs = compared(script)
    assert len(seen) > 20
    assert epochs == 2


def test_class_is_the_scripts_own(compared: Any) -> None:
    class Own(pl.Trainer):
        pass

    def script() -> Any:
        seen = []
        trainer = Own(**ARGUMENTS)
        trainer.fit(
            Module(lambda hook, module: seen.append((isinstance(trainer, Own), type(trainer).__qualname__))),
            loader(),
            loader(2),
        )
        return seen, type(trainer) is Own

    assert compared(script)[1]


class OwnTrainer(pl.Trainer):
    """A Trainer with methods, and an attribute, of the script's own."""

    def __init__(self, seen: list[Any], **arguments: Any) -> None:
        self.seen = seen
        super().__init__(**arguments)

    @property
    def folder(self) -> str:
        return f"own{self.global_step}"

    def print(self, *args: Any, **kwargs: Any) -> None:
        self.seen.append(args)
        super().print("own", *args, **kwargs)

    def save_checkpoint(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        self.seen.append((os.path.basename(filepath), self.current_epoch, self.global_step))
        super().save_checkpoint(filepath, *args, **kwargs)


def replaced_methods(seen: list[Any], **arguments: Any) -> Any:
    """Makes a Trainer whose methods are replaced one by one, around Lightning's."""
    trainer = pl.Trainer(**arguments)
    lightnings_print, lightnings_save = trainer.print, trainer.save_checkpoint

    def print_it(*args: Any, **kwargs: Any) -> None:
        seen.append(args)
        lightnings_print("own", *args, **kwargs)

    def save(filepath: Any, *args: Any, **kwargs: Any) -> None:
        seen.append((os.path.basename(filepath), trainer.current_epoch, trainer.global_step))
        lightnings_save(filepath, *args, **kwargs)

    trainer.print, trainer.save_checkpoint = print_it, save  # type: ignore[method-assign]
    trainer.seen, trainer.folder = seen, "own"
    return trainer


@pytest.mark.parametrize("make", [OwnTrainer, replaced_methods])
def test_what_a_script_gives_its_trainer(compared: Any, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    """Methods of its own are called by the module and the callbacks, and reach those of the trial."""

    def act(hook: str, module: Any) -> None:
        trainer = module.trainer
        if hook == "on_train_epoch_end":
            trainer.seen.append((trainer.folder, hasattr(trainer, "nothing")))
            trainer.print("an epoch")
            trainer.save_checkpoint(f"{trainer.folder}.ckpt")
            trainer.epochs = getattr(trainer, "epochs", 0) + 1

    def script() -> Any:
        trainer = make([], **{**ARGUMENTS, "enable_checkpointing": True})
        trainer.fit(Module(act), loader(), loader(2))
        saved = torch.load(f"{trainer.folder}.ckpt", weights_only=False)
        counts = saved["global_step"], saved["epoch"], saved["state_dict"], saved["optimizer_states"]
        return trainer.seen, trainer.epochs, counts, capsys.readouterr().out.count("own an epoch")

    seen, epochs, _, printed = compared(script)
    assert len(seen) == 8
    assert epochs == printed == 2


class GoesBackwardByHand(Module):
    """Calls ``manual_backward``."""

    automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return loss


@pytest.mark.parametrize("module_class", [Module, GoesBackwardByHand])
def test_what_a_script_puts_around_backward(compared: Any, module_class: type[Module]) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)
        module, hooks = module_class(), []
        module.on_before_backward = lambda loss: hooks.append(float(loss.detach()))  # type: ignore[method-assign]
        module.on_after_backward = lambda: hooks.append("after")  # type: ignore[method-assign]
        with mock.patch.object(trainer.strategy, "backward", wraps=trainer.strategy.backward) as backward:
            trainer.fit(module, loader(), loader(2))
        return backward.call_count, hooks, module.state_dict()

    assert compared(script)[0] == 8


def test_pickled_bar_holds_the_scripts_trainer(compared: Any) -> None:
    def script() -> Any:
        bar = pl.callbacks.TQDMProgressBar()
        trainer = pl.Trainer(**{**ARGUMENTS, "enable_progress_bar": True}, callbacks=[bar])
        trainer.fit(Module(operator.is_), loader(), loader(2))
        copy = pickle.loads(pickle.dumps(bar))
        return type(copy.trainer).__qualname__, copy.trainer.global_step

    assert compared(script) == ("Trainer", 8)


@pytest.mark.parametrize("by_signal", [False, True])
def test_stop_by_reference(compared: Any, by_signal: bool) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)

        def stop(*args: Any) -> None:
            trainer.should_stop = True

        def act(hook: str, module: Any) -> None:
            if hook == "on_train_batch_end" and module.global_step == 2:
                os.kill(os.getpid(), signal.SIGUSR2) if by_signal else stop()

        former = signal.signal(signal.SIGUSR2, stop)
        try:
            trainer.fit(Module(act), loader(), loader(2))
        finally:
            signal.signal(signal.SIGUSR2, former)
        return attributes(trainer)

    assert compared(script)["global_step"] == 2


def test_copied_callbacks(compared: Any) -> None:
    class Keeping(pl.Callback):
        def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
            self.trainer = trainer
            self.copies = copy.deepcopy(trainer.callbacks)

    def script() -> Any:
        callback = Keeping()
        pl.Trainer(**ARGUMENTS, callbacks=[callback]).fit(Module(), loader(), loader(2))
        return [type(each).__name__ for each in callback.copies], copy.deepcopy(callback).trainer.global_step

    assert compared(script) == (["Keeping"], 8)


def fails(at_hook: str, at_step: int, error: BaseException) -> Callable[[str, Any], None]:
    def act(hook: str, module: Any) -> None:
        if hook == at_hook and module.global_step >= at_step:
            raise error

    return act


@pytest.mark.parametrize(
    ("hook", "step"),
    [
        ("training_step", 0),
        ("training_step", 6),
        ("on_train_batch_end", 6),
        ("validation_step", 4),
        ("on_train_epoch_end", 4),
    ],
)
@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("out of memory"), id="error"),
        # Before 2.4 the script goes on.
        pytest.param(KeyboardInterrupt(), id="interrupt", marks=pytest.mark.lightning(">=2.4")),
    ],
)
def test_after_an_error(compared: Any, hook: str, step: int, error: BaseException) -> None:
    def script() -> Any:
        seen = []
        fail = fails(hook, step, error)

        def act(hook: str, module: Any) -> None:
            if hook.startswith("on_exception"):
                seen.append((hook, module.trainer.interrupted, attributes(trainer)))
            fail(hook, module)

        trainer = pl.Trainer(**ARGUMENTS, callbacks=[Exceptions()])
        former = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(Module(act), loader(), loader(2))
        except (RuntimeError, SystemExit) as raised:
            seen.append(repr(raised))
        finally:
            signal.signal(signal.SIGINT, former)
        trainer.save_checkpoint("emergency.ckpt")
        saved = torch.load("emergency.ckpt", weights_only=False)
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        return seen, attributes(trainer), saved["global_step"], saved["state_dict"], batches.processed, batches.ready

    assert len(compared(script)[0]) == 2


def test_error_in_setup(compared: Any) -> None:
    class Failing(Module):
        def setup(self, stage: str) -> None:
            raise RuntimeError("no data")

    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)
        with pytest.raises(RuntimeError, match="no data"):
            trainer.fit(Failing(), loader(), loader(2))
        return str(trainer.state.status), trainer.interrupted, trainer.global_step

    assert compared(script)[1]


def test_fits_again(compared: Any) -> None:
    """With more epochs, with another module, after an error, and with nothing left to train."""

    def script() -> Any:
        seen: list[Any] = []

        def look(hook: str, module: Any) -> None:
            seen.append((hook, module.current_epoch, module.global_step, counts(module.trainer.fit_loop)))

        trainer = pl.Trainer(**ARGUMENTS)
        module = Module(look)
        trainer.fit(module, loader(), loader(2))
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, loader(3), loader(2))
        seen.append(attributes(trainer))
        trainer.fit_loop.max_epochs = 6
        with pytest.raises(RuntimeError):
            trainer.fit(Module(fails("training_step", 16, RuntimeError())), loader(), loader(2))
        seen.append((trainer.global_step, counts(trainer.fit_loop)))
        other = Module(module.act)
        trainer.fit(other, loader(), loader(2))
        seen.append((attributes(trainer), counts(trainer.fit_loop)))
        trainer.fit(Module(module.act), loader(), loader(2))
        return seen, attributes(trainer), counts(trainer.fit_loop), other.state_dict()

    assert compared(script)[1]["current_epoch"] == 6


def test_random_numbers_of_a_second_fit(compared: Any) -> None:
    def script() -> Any:
        drawn: list[Any] = []
        names = ("on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start", "on_fit_end")
        hooks: dict[str, Any] = {name: lambda self, *args: drawn.append(torch.random.get_rng_state()) for name in names}
        callbacks = [type("Looks", (pl.Callback,), hooks)(), GradientAccumulationScheduler({1: 2})]
        trainer = pl.Trainer(**ARGUMENTS, callbacks=callbacks)
        data = DataLoader(TensorDataset(torch.arange(12.0).view(-1, 3)), shuffle=True)
        seen = []
        for epochs in (2, 4, 4):
            trainer.fit_loop.max_epochs = epochs
            module = Module()
            trainer.fit(module, data, loader(2))
            seen.append((attributes(trainer), module.state_dict()))
            # The scheduler wants to be the only one that sets it.
            trainer.accumulate_grad_batches = 1
        return [*seen, drawn]

    assert compared(script)[0][0]["accumulate_grad_batches"] == 2


def test_tuner(compared: Any) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)
        module = Module()
        finder = Tuner(trainer).lr_find(module, loader(), loader(2), num_training=4, update_attr=False)
        assert finder is not None
        found = finder.results
        trainer.fit(module, loader(), loader(2))
        return found, attributes(trainer), module.state_dict()

    compared(script)


# Before 2.3 the Trainer counts the steps of its search for a learning rate among those of the training.
@pytest.mark.parametrize("finder", [pytest.param("learning rate", marks=pytest.mark.lightning(">=2.3")), "batch size"])
def test_finder_among_the_callbacks(compared: Any, finder: str) -> None:
    class WithBatchSize(Module):
        batch_size = 2

        def train_dataloader(self) -> DataLoader[Any]:
            return DataLoader(TensorDataset(torch.arange(288.0).view(-1, 3) / 300), batch_size=self.batch_size)

        def val_dataloader(self) -> DataLoader[Any]:
            return loader(2)

    def script() -> Any:
        if finder == "learning rate":
            callback: Any = LearningRateFinder(num_training_steps=30, max_lr=0.5)
        else:
            callback = BatchSizeFinder(steps_per_trial=1, init_val=2, max_trials=2)
        trainer = pl.Trainer(**ARGUMENTS, callbacks=[callback])
        module = WithBatchSize()
        trainer.fit(module)
        return module.lr, module.batch_size, attributes(trainer), module.state_dict(), callback in trainer.callbacks

    lr, batch_size, *_ = compared(script)
    assert (lr, batch_size) != (0.1, 2)


@pytest.mark.parametrize("size", [1, 2])
def test_search_is_refused(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    with lightning_shim.patched(trainer=True):
        trainer = pl.Trainer(**ARGUMENTS)
        monkeypatch.setenv("WORLD_SIZE", str(size))
        if size == 1:
            monkeypatch.setattr(fit, "is_on_cluster", lambda: True)
        with pytest.raises(ConfigurationError, match="a Tuner searches off-cluster and on one process only"):
            Tuner(trainer).lr_find(Module(), loader(), loader(2))


def test_cluster_has_one_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with lightning_shim.patched(trainer=True):
        trainer = pl.Trainer(**ARGUMENTS)
        monkeypatch.setattr(fit, "_has_run_on_cluster", True)
        with pytest.raises(ConfigurationError, match=r"the first fit is the trial's. Make each training a trial"):
            trainer.fit(Module(), loader(), loader(2))
