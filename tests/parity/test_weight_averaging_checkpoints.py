"""StochasticWeightAveraging from a checkpoint of an epoch's end: Lightning's own, and Determined's, on either side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytorch_lightning.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

import lightning_shim
from tests.parity.modules import dataset
from tests.parity.oracle import assert_same
from tests.parity.test_stochastic_weight_averaging import MODULES
from tests.resume.conftest import checkpoints
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.places import place_in

EPOCHS = 4
BATCHES = 6


def loaders() -> dict[str, Any]:
    """Makes loaders that draw no random numbers, which Lightning's checkpoints do not keep."""
    return {
        "train_dataloaders": DataLoader(dataset(), batch_size=4),
        "val_dataloaders": DataLoader(dataset(10, seed=4), batch_size=4),
    }


def make(name: str) -> Any:
    pl.seed_everything(7)
    module = MODULES[name]()
    module.layers[3] = nn.Identity()
    return module


def averaging() -> Any:
    return StochasticWeightAveraging(0.04, 2, annealing_epochs=3)


def outcome(module: Any, callback: Any) -> dict[str, Any]:
    trainer = module.trainer
    return {
        "weights": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "counts": (trainer.global_step, trainer.current_epoch),
        "averaging": callback.state_dict(),
        "momenta": [layer.momentum for layer in module.modules() if isinstance(layer, nn.BatchNorm1d)],
    }


def train_with_lightning(name: str, ckpt_path: Path | None = None, saving: Sequence[Any] = ()) -> dict[str, Any]:
    module, callback = make(name), averaging()
    options = {"max_epochs": EPOCHS, "callbacks": [callback, *saving], "enable_checkpointing": bool(saving)}
    fit_by_lightning(pl, module, **loaders(), ckpt_path=ckpt_path, **options)
    return outcome(module, callback)


def train_with_determined(name: str, **options: Any) -> dict[str, Any]:
    module, callback = make(name), averaging()
    with lightning_shim.patched():
        lightning_shim.fit(module, **loaders(), max_length=pytorch.Epoch(EPOCHS), callbacks=callback, **options)
    return outcome(module, callback)


# What saved the checkpoint is not there to continue from it.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks .*ModelCheckpoint")
@pytest.mark.parametrize("name", ["batch norm", "no batch norm", "LambdaLR"])
def test_both_continue(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saving = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = train_with_lightning(name, saving=[saving])
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(tmp_path / "data"))
    assert_same(train_with_determined(name, checkpoint_policy="all"), whole)
    written = checkpoints(tmp_path / "data")
    # Lightning does nothing with a checkpoint after which no epoch is left.
    for epoch in range(EPOCHS - (name == "no batch norm")):
        own, ours = tmp_path / f"epoch={epoch}.ckpt", written[(epoch + 1) * BATCHES] / "state_dict.pth"
        expected = train_with_lightning(name, own)
        assert_same(train_with_determined(name, ckpt_path=own), expected, f"from Lightning's {epoch}")
        assert_same(train_with_lightning(name, ours), expected, f"Lightning from Determined's {epoch}")
        assert_same(train_with_determined(name, ckpt_path=ours), expected, f"from Determined's {epoch}")


class Sets(pl.Callback):
    def __init__(self, hook: str, name: str, value: Any) -> None:
        def sets(trainer: Any, module: Any) -> None:
            setattr(trainer.fit_loop, name, value)  # here: sets

        setattr(self, hook, sets)


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
def test_length_can_be_set(hook: str) -> None:
    module = make("batch norm")
    lightning_shim.fit(module, **loaders(), max_length=pytorch.Epoch(1), callbacks=Sets(hook, "max_epochs", 3))
    assert (module.trainer.current_epoch, module.trainer.max_epochs) == (3, 3)


@pytest.mark.usefixtures("patched")
@pytest.mark.parametrize(
    ("hook", "name", "value", "length", "problem"),
    [
        ("on_train_epoch_start", "max_epochs", 5, pytorch.Epoch(2), "Determined is training already"),
        ("on_fit_start", "max_epochs", 5, pytorch.Batch(2), "the length of this trial is in batches"),
        ("on_fit_start", "max_epochs", 0, pytorch.Epoch(2), "trainer.fit_loop.max_epochs is Epoch(0)"),
        ("on_train_epoch_start", "max_batches", 5, pytorch.Epoch(2), "an epoch has 6 batches. To train on fewer"),
    ],
)
def test_what_cannot_be_set(hook: str, name: str, value: Any, length: Any, problem: str) -> None:
    with pytest.raises(lightning_shim.ConfigurationError) as caught:
        lightning_shim.fit(make("batch norm"), **loaders(), max_length=length, callbacks=Sets(hook, name, value))
    assert str(caught.value).startswith(place_in(Path(__file__), "sets"))
    assert problem in str(caught.value)
