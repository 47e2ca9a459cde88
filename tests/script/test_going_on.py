"""``Trainer.fit(ckpt_path=...)`` goes on as Lightning's own Trainer does, whatever hook has written the checkpoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import lightning_shim
from tests.parity.oracle import assert_same
from tests.support.lightning_trainer import QUIET
from tests.support.recording import Recording, recording_logger

pytestmark = [
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:You defined a .validation_step. but have no .val_dataloader"),
]

HOOKS = (
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_batch_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_end",
)


class Module(pl.LightningModule):
    """A module that draws random numbers, logs, and has a scheduler; a function is called in its validation."""

    def __init__(self, interval: str = "step") -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(3, 1), torch.nn.Dropout(0.2))
        self.interval = interval
        self.in_validation: Any = lambda: None

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.layers(batch[0]).square().mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.in_validation()
        self.log("val", self.layers(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": self.interval}}


class Events(pl.Callback):
    """A callback that keeps what each hook sees."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def see(self, hook: str, trainer: Any, args: tuple[Any, ...]) -> None:
        loop = trainer.fit_loop.epoch_loop
        batches = [each[0] if isinstance(each, (list, tuple)) else each for each in args]
        seen = (trainer.current_epoch, trainer.global_step, loop.batch_idx, loop.total_batch_idx, trainer.is_last_batch)
        random, rate = torch.get_rng_state(), trainer.optimizers[0].param_groups[0]["lr"]
        self.events.append((hook, *seen, batches[-2:], random, rate, dict(trainer.callback_metrics)))


class Saving(Events):
    """A callback that saves in each hook."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def see(self, hook: str, trainer: Any, args: tuple[Any, ...]) -> None:
        self.calls[hook] += 1
        trainer.save_checkpoint(f"saved/{hook}-{self.calls[hook]}.ckpt")


def _hook(name: str) -> Any:
    return lambda callback, trainer, module, *args: callback.see(name, trainer, args)


for name in HOOKS:
    setattr(Events, name, _hook(name))


def loader(batches: int, *, shuffle: bool = False) -> Any:
    data = TensorDataset(torch.arange(batches * 6.0).reshape(-1, 3) / 10)
    return DataLoader(data, batch_size=2, shuffle=shuffle)


def fitted(options: dict[str, Any], module: Any = None, **fit_arguments: Any) -> tuple[Any, list[Any]]:
    """Fits a module, and returns its Trainer and what can be seen of the training."""
    torch.manual_seed(0)
    options = dict(options)
    recording, callbacks = Recording(), options.pop("callbacks", None) or [Events()]
    logger = recording_logger(pl.loggers.Logger, recording)
    module = module or Module(options.pop("interval", "step"))
    data = (loader(4, shuffle=True), None if options.get("limit_val_batches") == 0 else loader(2))
    trainer = pl.Trainer(**{**QUIET, "log_every_n_steps": 1, **options, "logger": logger, "callbacks": callbacks})
    trainer.fit(module, *fit_arguments.pop("data", data), **fit_arguments)
    loops = trainer.fit_loop.state_dict()
    events = getattr(callbacks[0], "events", [])
    return trainer, [events, recording.logged, module.state_dict(), loops, trainer.current_epoch, trainer.global_step]


@pytest.mark.parametrize("more", [True, False], ids=["more to train", "as long"])
@pytest.mark.parametrize(
    ("options", "longer"),
    [
        ({"max_epochs": 2, "val_check_interval": 2}, {"max_epochs": 3}),
        ({"max_epochs": 2, "accumulate_grad_batches": 3, "interval": "epoch"}, {"max_epochs": 3}),
        ({"max_epochs": -1, "max_steps": 6, "limit_val_batches": 0}, {"max_steps": 10}),
        ({"max_epochs": -1, "max_steps": 6}, {"max_steps": 10}),
    ],
    ids=["half epochs", "accumulating", "steps without validation", "steps"],
)
def test_from_each_hook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], longer: dict[str, Any], more: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    fitted({**options, "callbacks": [Saving()]})
    files = sorted(Path("saved").iterdir())
    assert {file.stem.split("-")[0] for file in files} >= {"on_train_batch_end", "on_train_epoch_end"}
    # Each hook's first and last call, and those in between of a checkpoint that is often written.
    chosen = [file for file in files if file.stem.endswith(("-1", "-4", "-5", "-6")) or "batch" not in file.stem]
    for file in chosen:
        arguments = {**options, **(longer if more else {})}
        expected = fitted(arguments, ckpt_path=file)[1]
        with lightning_shim.patched(trainer=True):
            actual = fitted(arguments, ckpt_path=file)[1]
        assert_same(actual, expected, file.stem)


class Broken(Exception):
    pass


@pytest.mark.parametrize("failing", [2, 4], ids=["within an epoch", "at its end"])
def test_after_an_error_in_a_validation(compared: Any, failing: int) -> None:
    def script() -> Any:
        module, calls = Module(), Counter[str]()

        def fail() -> None:
            calls["validation_step"] += 1
            if calls["validation_step"] == failing:
                raise Broken

        class SavesErrors(pl.Callback):
            def on_exception(self, trainer: Any, *_: Any) -> None:
                trainer.save_checkpoint("broken.ckpt")

        module.in_validation = fail
        options = {"max_epochs": 1, "val_check_interval": 0.5}
        with pytest.raises(Broken):
            fitted({**options, "callbacks": [SavesErrors()]}, module)
        loops = torch.load("broken.ckpt", weights_only=False)["loops"]
        return [loops, fitted(options, ckpt_path="broken.ckpt")[1]]

    compared(script)


class Stream(IterableDataset[Any]):
    """A dataset without a length."""

    def __iter__(self) -> Iterator[Any]:
        return (torch.full((3,), float(number)) for number in range(4))


class Stateful:
    """A loader that saves its position."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.next % 4, 4):
            self.next = number + 1
            yield torch.full((1, 3), float(number))

    def __len__(self) -> int:
        return 4

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next = state["next"]


@pytest.mark.parametrize("make", [lambda: DataLoader(Stream()), Stateful], ids=["without a length", "with a state"])
def test_loaders(compared: Any, make: Any) -> None:
    class Wrapped(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step([batch], batch_idx)

    def script() -> Any:
        options = {"max_epochs": 2, "limit_val_batches": 0}
        fitted({**options, "callbacks": [Saving()]}, Wrapped(), data=(make(),))
        results = []
        for batches in (2, 4, 6):
            path = f"saved/on_train_batch_end-{batches}.ckpt"
            results.append(torch.load(path, weights_only=False)["loops"])
            results.append(fitted(options, Wrapped(), data=(make(),), ckpt_path=path)[1])
        return results

    compared(script)


def test_what_is_said_if_nothing_is_left(compared: Any, caplog: pytest.LogCaptureFixture) -> None:
    def script() -> Any:
        caplog.clear()
        trainer, _ = fitted({"max_epochs": 2})
        trainer.save_checkpoint("complete.ckpt")
        fitted({"max_epochs": 2}, ckpt_path="complete.ckpt")
        with pytest.raises(MisconfigurationException, match=r"with current_epoch=2, but you have set .*max_epochs=1"):
            fitted({"max_epochs": 1}, ckpt_path="complete.ckpt")
        return [message for message in caplog.messages if "Restoring" in message or "stopped" in message]

    with caplog.at_level("INFO", "pytorch_lightning"):
        assert "`Trainer.fit` stopped: `max_epochs=2` reached." in compared(script)[2:]


def test_loaders_that_configure_optimizers_asks_for(compared: Any) -> None:
    class Asking(Module):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), 0.1)
            steps = self.trainer.estimated_stepping_batches
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=int(steps) + 1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def script() -> Any:
        options = {"max_epochs": 2, "val_check_interval": 2}
        fitted({**options, "callbacks": [Saving()]}, Asking())
        paths = [f"saved/{name}.ckpt" for name in ("on_train_batch_end-5", "on_validation_end-3")]
        return [fitted(options, Asking(), ckpt_path=path)[1] for path in paths]

    compared(script)
