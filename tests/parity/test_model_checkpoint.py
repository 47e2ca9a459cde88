"""ModelCheckpoint writes the files that it writes under Lightning's own Trainer, and its best model loads."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from torch import Tensor

import lightning_shim
from tests.parity.modules import Regression, StepsByHand, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning

OWN = "own"

# The counts of the loops that Lightning continues by.
COUNTS = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict")


class Improves(Regression):
    """Is best after the second epoch."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", 10.0 - self.current_epoch if self.current_epoch < 2 else 20.0 - self.current_epoch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class Manual(StepsByHand, Improves):
    pass


def files(folder: str) -> dict[str, Any]:
    """Returns the checkpoints in a folder by their names."""
    checkpoints = {path.name: torch.load(path, weights_only=False) for path in sorted(Path(folder).iterdir())}
    for checkpoint in checkpoints.values():
        checkpoint["loops"] = {name: checkpoint["loops"]["fit_loop"][name] for name in COUNTS}
    return checkpoints


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "best": {"monitor": "val_loss"},
    "top two": {"monitor": "val_loss", "save_top_k": 2, "filename": "{epoch:02d}-{val_loss:.2f}", "save_last": True},
    "worst": {"monitor": "val_loss", "mode": "max", "save_last": "link"},
    "all": {"monitor": "loss_epoch", "save_top_k": -1, "every_n_epochs": 2},
    "weights": {"monitor": "val_loss", "save_weights_only": True},
    "after validation": {"monitor": "val_loss", "save_on_train_epoch_end": False},
    "steps": {"every_n_train_steps": 4, "save_top_k": -1},
    "steps of a metric": {"every_n_train_steps": 3, "monitor": "val_loss", "save_top_k": 2},
    "time": {"train_time_interval": timedelta(microseconds=1), "save_top_k": 1},
    "last only": {"save_top_k": 0, "save_last": True},
}


@pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
# Of the steps before the first validation, which Lightning says before 2.6.
@pytest.mark.filterwarnings("ignore:.ModelCheckpoint.monitor='val_loss'.. could not find the monitored key")
@pytest.mark.parametrize("validation", [None, 4])
@pytest.mark.parametrize(("module", "name"), [*((Improves, name) for name in SETTINGS), (Manual, "steps")])
def test_files(mocker: MockerFixture, module: type, name: str, validation: int | None) -> None:
    case = Case(
        module,
        loaders,
        max_epochs=4,
        callbacks=lambda: [ModelCheckpoint(OWN, **SETTINGS[name])],
        validation=validation,
        every_hook=False,
    )
    lightning = run_lightning(case, enable_checkpointing=True)
    Path(OWN).rename("lightnings")
    determined = run_determined(case, mocker)
    assert_equal(lightning, determined)
    ours, theirs = files(OWN), files("lightnings")
    assert list(ours) == list(theirs)
    for file, checkpoint in ours.items():
        assert_same(checkpoint, theirs[file], file)


def train(epochs: int, callback: Any, **options: Any) -> Any:
    with lightning_shim.patched():
        return lightning_shim.fit(
            Improves(), **loaders(), max_length=pytorch.Epoch(epochs), callbacks=callback, **options
        )


def test_best_model_loads() -> None:
    callbacks = [ModelCheckpoint(monitor="val_loss"), ModelCheckpoint(OWN), pl.Callback()]
    trial = train(4, callbacks, checkpoint_policy="none")
    assert trial.trainer.callbacks == [callbacks[2], *callbacks[:2]]
    assert trial.trainer.checkpoint_callbacks == callbacks[:2]
    best, newest = trial.trainer.checkpoint_callback, callbacks[1]
    assert best is callbacks[0]
    assert best.dirpath == str(Path("lightning_logs", "version_0", "checkpoints").absolute())
    assert best.best_model_score == 9.0
    assert list(best.best_k_models) == [best.best_model_path]
    assert torch.load(best.best_model_path, weights_only=True)["epoch"] == 1
    module, newest_module = (Improves.load_from_checkpoint(saving.best_model_path) for saving in (best, newest))
    assert newest_module.hparams["width"] == 8
    assert_same(newest_module.state_dict(), trial.module.state_dict())
    assert not torch.equal(module.layers[0].weight, newest_module.layers[0].weight)


# Lightning says so of what a trial that goes on finds.
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_copies_in_determineds_checkpoints() -> None:
    """A trial that goes on where nothing is left of the files has them again, and ends with the same ones."""
    whole = train(4, ModelCheckpoint(OWN, monitor="val_loss", save_top_k=2, save_last=True))
    expected = files(OWN)
    for path in Path(OWN).iterdir():
        path.unlink()
    paused = train(2, ModelCheckpoint(OWN, monitor="val_loss", save_top_k=2, save_last=True))
    before = files(OWN)
    copies = files(str(paused.checkpoint_path / "model_checkpoints"))
    assert_same(copies, before)
    for path in Path(OWN).iterdir():
        path.unlink()
    train(2, ModelCheckpoint(OWN, monitor="val_loss", save_top_k=2), latest_checkpoint=paused.checkpoint_path)
    assert_same(files(OWN), before)
    resumed = train(
        4,
        ModelCheckpoint(OWN, monitor="val_loss", save_top_k=2, save_last=True),
        latest_checkpoint=paused.checkpoint_path,
    )
    assert files(OWN).keys() == expected.keys()
    ours, theirs = (trial.trainer.checkpoint_callback.state_dict() for trial in (resumed, whole))
    # Lightning saves it, and does not load it.
    del ours["current_score"], theirs["current_score"]
    assert_same(ours, theirs)


def test_same_name_in_two_folders() -> None:
    callbacks = [ModelCheckpoint(folder, monitor="val_loss", every_n_epochs=n) for n, folder in enumerate("ab", 1)]
    trial = train(2, callbacks)
    (first,), (second,) = files("a"), files("b")
    assert first == second
    assert files(str(trial.checkpoint_path / "model_checkpoints")).keys() == {first, f"1-{second}"}


class Fails(Improves):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            raise RuntimeError("as planned")


@pytest.mark.parametrize(
    ("callback", "file"),
    [
        (lambda: OnExceptionCheckpoint(OWN), "on_exception.ckpt"),
        pytest.param(
            lambda: ModelCheckpoint(OWN, save_on_exception=True, every_n_epochs=5),
            "epoch=1-step=6.ckpt",
            marks=pytest.mark.lightning(">=2.5.3"),
        ),
    ],
)
def test_exception(callback: Any, file: str) -> None:
    with lightning_shim.patched(), pytest.raises(RuntimeError, match="as planned"):
        lightning_shim.fit(Fails(), **loaders(), max_length=pytorch.Epoch(2), callbacks=callback())
    ((name, checkpoint),) = files(OWN).items()
    assert (name, checkpoint["global_step"]) == (file, 6)


def test_no_exception() -> None:
    train(1, OnExceptionCheckpoint(OWN))
    assert not Path(OWN).exists()


class SavesByHand(pl.Callback):
    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(f"{OWN}/all.ckpt")
            trainer.save_checkpoint(f"{OWN}/weights.ckpt", weights_only=True)


def test_save_checkpoint(mocker: MockerFixture) -> None:
    case = Case(Improves, loaders, max_epochs=1, callbacks=lambda: [SavesByHand()], every_hook=False)
    run_lightning(case)
    Path(OWN).rename("lightnings")
    run_determined(case, mocker)
    ours, theirs = files(OWN), files("lightnings")
    assert list(ours) == ["all.ckpt", "weights.ckpt"]
    assert_same(ours, theirs)
