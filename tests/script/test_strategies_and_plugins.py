"""Strategies and plugins that are objects: Lightning's own, and those that a trial does without, or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins import (
    AsyncCheckpointIO,
    DoublePrecision,
    HalfPrecision,
    LayerSync,
    MixedPrecision,
    Precision,
    TorchCheckpointIO,
    TorchSyncBatchNorm,
)
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, SingleDeviceStrategy

import lightning_shim
from tests.script.test_trainer_object import ARGUMENTS, Module, loader


class Encrypted(TorchCheckpointIO):
    """A user's own: what it writes nobody else can read."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"secret": checkpoint}, path)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.load(path, weights_only=False)["secret"]


class Squares(DDPStrategy):
    """A user's own, which steps otherwise."""

    def backward(self, closure_loss: Any, *args: Any, **kwargs: Any) -> Any:
        return super().backward(closure_loss**2, *args, **kwargs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"strategy": SingleDeviceStrategy("cpu")},
        {"strategy": SingleDeviceStrategy("cpu", precision_plugin=HalfPrecision("bf16-true"))},
        {"plugins": MixedPrecision("bf16-mixed", "cpu")},
        {"plugins": [DoublePrecision()]},
        {"plugins": [Precision(), LightningEnvironment(), TorchSyncBatchNorm()]},
    ],
    ids=["single device", "precision of a strategy", "mixed", "double", "no effect"],
)
def test_is_lightnings(compared: Any, arguments: dict[str, Any]) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**{**ARGUMENTS, "accelerator": "auto"}, **arguments)
        model = Module()
        trainer.fit(model, loader(), loader(2))
        return model.state_dict(), trainer.precision, trainer.global_step

    compared(script)


# Before 2.6 the Trainer goes on elsewhere in the epoch, and an AsyncCheckpointIO writes for one fit alone.
@pytest.mark.lightning(">=2.6")
# The callback that has written the checkpoint is not needed to go on.
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("make", [Encrypted, lambda: AsyncCheckpointIO(Encrypted()), AsyncCheckpointIO])
def test_checkpoints_are_written_and_read_by_plugins(compared: Any, make: Any) -> None:
    def script() -> Any:
        arguments = {**ARGUMENTS, "enable_checkpointing": True}
        every: dict[str, Any] = {"save_top_k": -1, "every_n_train_steps": 1}
        checkpoints = ModelCheckpoint("own", **every)
        trainer = pl.Trainer(**arguments, callbacks=[checkpoints], plugins=[make()])
        trainer.fit(Module(), loader(), loader(2))
        files = sorted(path.name for path in Path("own").glob("*"))
        has_secret = "secret" in torch.load(checkpoints.best_model_path, weights_only=False)
        again = pl.Trainer(**{**ARGUMENTS, "max_epochs": 3}, plugins=[make()])
        model = Module()
        again.fit(model, loader(), loader(2), ckpt_path=checkpoints.best_model_path)
        again.save_checkpoint(Path("last.ckpt").absolute())  # A thread may write it after the script.
        return files, has_secret, model.state_dict(), again.global_step, Path(checkpoints.best_model_path).name

    files = compared(script)[0]
    assert len(files) == 8


def test_checkpoint_is_a_url(compared: Any) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**ARGUMENTS)
        trainer.fit(Module(), loader(), loader(2))
        trainer.save_checkpoint("memory://checkpoints/first.ckpt")
        model = Module()
        again = pl.Trainer(**{**ARGUMENTS, "max_epochs": 3})
        again.fit(model, loader(), loader(2), ckpt_path="memory://checkpoints/first.ckpt")
        return model.state_dict(), again.global_step, again.current_epoch, again.ckpt_path

    compared(script)


@pytest.fixture
def _scripts() -> Any:
    with lightning_shim.patched(trainer=True):
        yield


@pytest.mark.usefixtures("_scripts")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"strategy": "fsdp"}, 'as "ddp" does'),
        ({"strategy": FSDPStrategy()}, "as DDPStrategy does"),
        ({"strategy": Squares()}, "its own backward"),
        ({"strategy": DDPStrategy(model_averaging_period=3)}, "does not average models"),
        ({"plugins": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))}, "precisions"),
        ({"plugins": [type("Own", (Precision,), {})()]}, "precisions"),
        ({"strategy": SingleDeviceStrategy("cpu", precision_plugin=type("Own", (Precision,), {})())}, "precisions"),
        ({"plugins": [type("Own", (LayerSync,), {"apply": None, "revert": None})()]}, "precisions"),
    ],
    ids=[
        "name of a strategy",
        "strategy of another kind",
        "own strategy",
        "averaged models",
        "scaler on a CPU",
        "own precision",
        "own precision of a strategy",
        "own synchronisation",
    ],
)
def test_is_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(lightning_shim.ConfigurationError, match=rf"{__file__}:\d+: Trainer\(.*refused: .*{reason}"):
        pl.Trainer(**arguments)


@pytest.mark.usefixtures("_scripts")
def test_environment_of_other_processes_is_warned_of() -> None:
    with pytest.warns(lightning_shim.DifferenceWarning, match=r"Trainer\(plugins=.*SLURM.* is ignored: Determined"):
        pl.Trainer(**ARGUMENTS, plugins=[SLURMEnvironment()])
