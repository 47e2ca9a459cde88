"""One checkpoint, two worlds: Lightning continues where Determined stopped, and the other way round."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from lightning_shim import CheckpointError
from tests.parity.modules import StepsByHand
from tests.parity.oracle import assert_same
from tests.support.lightning_trainer import QUIET, fit_by_lightning

BATCHES = 5


def loaders() -> dict[str, Any]:
    inputs = torch.linspace(-1, 1, BATCHES * 4 * 3).reshape(-1, 3)
    data = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))
    return {"train_dataloaders": DataLoader(data, batch_size=4), "val_dataloaders": DataLoader(data, batch_size=10)}


def modules(lightning: ModuleType) -> dict[str, type]:
    """Makes modules that draw no random numbers, which Lightning's checkpoints do not keep."""

    class Automatic(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.save_hyperparameters()
            generator = torch.Generator().manual_seed(1)
            self.layers = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))
            for parameter in self.parameters():
                nn.init.normal_(parameter, generator=generator)

        def loss(self, batch: list[Tensor]) -> Tensor:
            return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
            return self.loss(batch)

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", self.loss(batch))

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
            return [optimizer], [
                {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3, gamma=0.9), "interval": "step"},
                {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0), "monitor": "val_loss"},
            ]

    class Manual(StepsByHand, Automatic):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.05)

    return {"automatic": Automatic, "manual": Manual}


@pytest.fixture(params=["automatic", "manual"])
def module_class(request: pytest.FixtureRequest, lightning: ModuleType) -> Any:
    return modules(lightning)[request.param]


class Counts:
    """What a callback of the user's, for either namespace, keeps in a checkpoint."""

    batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


def callback(lightning: ModuleType) -> Any:
    return type("Counts", (Counts, lightning.Callback), {})()


def determined_trial(module: Any, length: pytorch.TrainUnit, **options: Any) -> Any:
    with lightning_shim.patched():
        return lightning_shim.fit(module, **loaders(), max_length=length, **options)


def outcome(module: Any, trainer: Any) -> dict[str, Any]:
    return {
        "weights": module.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "counts": (trainer.global_step, trainer.current_epoch),
        "callbacks": [entry.batches for entry in trainer.callbacks if isinstance(entry, Counts)],
    }


@pytest.fixture
def whole(lightning: ModuleType, module_class: Any) -> dict[str, Any]:
    """What four epochs without a break end in, under Lightning's own Trainer."""
    module = module_class()
    trainer = fit_by_lightning(lightning, module, **loaders(), max_epochs=4, callbacks=[callback(lightning)])
    return outcome(module, trainer)


class TestFromDetermined:
    def test_lightning_continues(self, lightning: ModuleType, module_class: Any, whole: dict[str, Any]) -> None:
        trial = determined_trial(module_class(), pytorch.Epoch(2), callbacks=[callback(lightning)])
        module = module_class()
        options = {"ckpt_path": trial.checkpoint_path / "state_dict.pth", "callbacks": [callback(lightning)]}
        trainer = fit_by_lightning(lightning, module, **loaders(), max_epochs=4, **options)
        assert_same(outcome(module, trainer), whole)

    # Before, Lightning counts some of the epoch's batches twice.
    @pytest.mark.lightning(">=2.5")
    # What saved Lightning's own checkpoint is not there to continue from it.
    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks .*ModelCheckpoint")
    @pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
    def test_lightning_continues_within_an_epoch(self, lightning: ModuleType, module_class: Any) -> None:
        """It does what it would do with its own checkpoint of that moment: the epoch's loader starts anew."""
        saving = lightning.callbacks.ModelCheckpoint(every_n_train_steps=7, save_top_k=-1, dirpath="own")
        options = {"callbacks": [saving], "enable_checkpointing": True}
        fit_by_lightning(lightning, module_class(), **loaders(), max_epochs=4, **options)
        (own, *_) = sorted(Path("own").glob("*step=7.ckpt"))
        trial = determined_trial(module_class(), pytorch.Batch(7))
        results = []
        for path in (own, trial.checkpoint_path / "state_dict.pth"):
            module = module_class()
            trainer = fit_by_lightning(lightning, module, **loaders(), max_epochs=4, ckpt_path=path)
            results.append(outcome(module, trainer))
        assert_same(results[1], results[0])

    # What saved the checkpoint is not there to continue from it.
    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks .*ModelCheckpoint")
    @pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
    @pytest.mark.parametrize("batches", [5, 7, 10])
    def test_both_continue_from_what_was_kept(self, lightning: ModuleType, module_class: Any, batches: int) -> None:
        """What ModelCheckpoint has kept of a trial is what it would have kept under Lightning's Trainer."""
        results = []
        for folder in ("lightnings", "ours"):
            saving = lightning.callbacks.ModelCheckpoint(
                folder, every_n_train_steps=batches, save_top_k=-1, filename="{step}"
            )
            if folder == "ours":
                determined_trial(module_class(), pytorch.Epoch(4), callbacks=[callback(lightning), saving])
            else:
                options = {"callbacks": [callback(lightning), saving], "enable_checkpointing": True}
                fit_by_lightning(lightning, module_class(), **loaders(), max_epochs=4, **options)
            path = f"{folder}/step={batches}.ckpt"
            module = module_class()
            options = {"ckpt_path": path, "callbacks": [callback(lightning)]}
            trainer = fit_by_lightning(lightning, module, **loaders(), max_epochs=4, **options)
            results.append(outcome(module, trainer))
            module = module_class()
            trial = determined_trial(module, pytorch.Epoch(4), ckpt_path=path, callbacks=[callback(lightning)])
            results.append(outcome(module, trial.trainer))
        assert_same(results, [results[0]] * 4)

    def test_lightning_validates_and_tests(self, lightning: ModuleType, module_class: Any) -> None:
        trial = determined_trial(module_class(), pytorch.Epoch(1))
        path = trial.checkpoint_path / "state_dict.pth"
        (metrics,) = lightning.Trainer(**QUIET).validate(
            module_class(), loaders()["val_dataloaders"], ckpt_path=path, verbose=False
        )
        assert metrics["val_loss"] == trial.metrics["val_loss"]

    def test_module_is_loaded_with_its_hyperparameters(self, lightning: ModuleType) -> None:
        module_class: Any = modules(lightning)["automatic"]
        trial = determined_trial(module_class(width=6), pytorch.Batch(2))
        loaded = module_class.load_from_checkpoint(trial.checkpoint_path / "state_dict.pth")
        assert loaded.hparams["width"] == 6
        assert_same(loaded.state_dict(), trial.module.state_dict())

    def test_storages_are_shared(self, lightning: ModuleType) -> None:
        module_class: Any = modules(lightning)["automatic"]
        trial = determined_trial(module_class(width=60_000), pytorch.Batch(2))
        (state,) = [optimizer.state_dict()["state"] for optimizer in trial.trainer.optimizers]
        tensors = [
            *trial.module.state_dict().values(),
            *(value for entry in state.values() for value in entry.values()),
        ]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        file_size = (trial.checkpoint_path / "state_dict.pth").stat().st_size
        assert size < file_size < 1.05 * size


class TestFromLightning:
    def test_determined_continues(self, lightning: ModuleType, module_class: Any, whole: dict[str, Any]) -> None:
        trainer = fit_by_lightning(
            lightning, module_class(), **loaders(), max_epochs=2, callbacks=[callback(lightning)]
        )
        trainer.save_checkpoint("after.ckpt")
        module = module_class()
        trial = determined_trial(module, pytorch.Epoch(4), ckpt_path="after.ckpt", callbacks=[callback(lightning)])
        assert_same(outcome(module, trial.trainer), whole)

    @pytest.mark.filterwarnings("ignore:Using ModelCheckpoint with manual optimization")
    @pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
    @pytest.mark.parametrize("batches", [7, 10])
    def test_pause_after_it(self, lightning: ModuleType, module_class: Any, batches: int) -> None:
        saving = lightning.callbacks.ModelCheckpoint("kept", "{step}", every_n_train_steps=batches, save_top_k=-1)
        options: dict[str, Any] = {"callbacks": [callback(lightning), saving], "enable_checkpointing": True}
        fit_by_lightning(lightning, module_class(), **loaders(), max_epochs=2, **options)
        results = []
        for pauses in (False, True):
            module = module_class()
            options = {"ckpt_path": f"kept/step={batches}.ckpt", "callbacks": [callback(lightning)]}
            if pauses:
                paused = determined_trial(module_class(), pytorch.Batch(batches + 2), **options)
                options |= {"latest_checkpoint": paused.checkpoint_path, "callbacks": [callback(lightning)]}
            results.append(outcome(module, determined_trial(module, pytorch.Epoch(4), **options).trainer))
        assert_same(*results)


class TestMistakes:
    def refuse(self, module: Any, ckpt_path: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            determined_trial(module, pytorch.Epoch(1), ckpt_path=ckpt_path)
        return str(caught.value)

    def test_no_file(self, module_class: Any) -> None:
        assert (
            self.refuse(module_class(), "none.ckpt")
            == "ckpt_path: Checkpoint file not found: none.ckpt. Aborting training."
        )

    def test_no_checkpoint(self, module_class: Any) -> None:
        Path("text.ckpt").write_text("text")
        assert "text.ckpt is damaged, or is not a checkpoint" in self.refuse(module_class(), "text.ckpt")

    def test_no_checkpoint_of_lightning(self, module_class: Any) -> None:
        torch.save({"weights": 1}, "other.ckpt")
        assert "other.ckpt is not a checkpoint of Lightning's" in self.refuse(module_class(), "other.ckpt")

    def test_weights_alone(self, lightning: ModuleType, module_class: Any) -> None:
        trainer = fit_by_lightning(lightning, module_class(), **loaders(), max_epochs=1)
        trainer.save_checkpoint("weights.ckpt", weights_only=True)
        with pytest.raises(KeyError, match="contains only the model") as caught:
            fit_by_lightning(lightning, module_class(), **loaders(), max_epochs=2, ckpt_path="weights.ckpt")
        with pytest.raises(KeyError) as refused:
            determined_trial(module_class(), pytorch.Epoch(2), ckpt_path="weights.ckpt")
        assert caught.value.args[0] in refused.value.args[0]
        assert isinstance(refused.value, CheckpointError)

    def test_another_module(self, lightning: ModuleType) -> None:
        module_class: Any = modules(lightning)["automatic"]
        trainer = fit_by_lightning(lightning, module_class(width=7), **loaders(), max_epochs=1)
        trainer.save_checkpoint("wide.ckpt")
        message = self.refuse(module_class(), "wide.ckpt")
        assert "the checkpoint wide.ckpt does not fit this module" in message
        assert "layers.0.weight" in message

    def test_other_optimizers(self, lightning: ModuleType) -> None:
        module_class: Any = modules(lightning)["automatic"]
        trainer = fit_by_lightning(lightning, module_class(), **loaders(), max_epochs=1)
        trainer.save_checkpoint("one.ckpt")
        del (saved := torch.load("one.ckpt", weights_only=False))["lr_schedulers"][1]
        torch.save(saved, "one.ckpt")
        assert "the states of 1 learning rate schedulers, and the module has 2" in self.refuse(
            module_class(), "one.ckpt"
        )
