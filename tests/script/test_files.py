"""A script's files are those that Lightning would write: the same places, values and steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_shim
from tests.support.tiny import loader


def module_of(lightning: ModuleType) -> Any:
    class LitModel(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self, width: int = 1) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(3, width)
            self.batches = 0

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.batches += 1
            loss = self.layer(batch[0]).mean()
            self.log("loss", loss, on_step=True, on_epoch=True)
            if batch_idx == 0:
                self.logger.experiment.add_text("note", "of the module", self.global_step)
            return loss

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("value", self.layer(batch[0]).sum() + batch_idx, on_step=True, on_epoch=True)
            self.log("mean", self.layer(batch[0]).mean())

        def test_step(self, batch: Any, batch_idx: int) -> None:
            self.log("test", self.layer(batch[0]).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    return LitModel()


def scalars(folder: str) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(folder).Reload()
    # Files of the same second are read in the order of their names, in which the tenth comes before the ninth.
    return {
        name: sorted((event.step, event.value) for event in events.Scalars(name)) for name in events.Tags()["scalars"]
    }


def train_twice(lightning: ModuleType) -> list[Any]:
    seen: list[Any] = []
    for _ in range(2):
        trainer = lightning.Trainer(
            max_epochs=3,
            log_every_n_steps=1,
            accelerator="cpu",
            callbacks=[lightning.callbacks.LearningRateMonitor()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        seen.append((type(trainer.logger).__name__, trainer.logger.version))
        trainer.logger.log_hyperparams({"before": 1})
        trainer.logger.experiment.add_text("before", "of the script")
        trainer.fit(module_of(lightning), loader(), [loader(), loader()], ckpt_path="last" if seen[1:] else None)
        trainer.test(trainer.lightning_module, loader(), verbose=False)
        seen.append((len(trainer.loggers), trainer.logger.version, trainer.log_dir))
        seen.append((trainer.checkpoint_callback.best_model_path, scalars(trainer.log_dir)))
        seen.append(EventAccumulator(trainer.log_dir).Reload().Tags()["tensors"])
    # The names of event files have the time and the process in them.
    files = sorted(str(path) for path in Path.cwd().rglob("*") if path.is_file() and "tfevents" not in path.name)
    return [*seen, files, [path.read_text() for path in Path.cwd().rglob("hparams.yaml")]]


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Gives a function that starts anew in a folder of the same path."""

    def in_a_folder(name: str) -> None:
        monkeypatch.chdir(tmp_path)
        here = tmp_path / "here"
        if here.exists():
            here.rename(tmp_path / name)
        here.mkdir()
        monkeypatch.chdir(here)

    return in_a_folder


# ckpt_path="last" finds nothing in the new version's folder.
@pytest.mark.filterwarnings("ignore:.fit.ckpt_path=.last.. is set, but there is no last checkpoint")
def test_default_logger(lightning: ModuleType, in_a_folder: Callable[[str], None]) -> None:
    in_a_folder("")
    expected = train_twice(lightning)
    in_a_folder("lightning")
    with lightning_shim.patched(trainer=True):
        actual = train_twice(lightning)
    assert actual == expected
    written = expected[2][1]
    assert [step for step, _ in written["value_step/dataloader_idx_1"]] == list(range(12))
    assert {"loss_step", "loss_epoch", "lr-SGD", "test", "hp_metric"} <= written.keys()


@pytest.mark.usefixtures("_scripts")
@pytest.mark.parametrize("owner", ["Trainer", "CSVLogger", "ModelCheckpoint"])
def test_place_that_cannot_be_written_to(pl: ModuleType, tmp_path: Path, owner: str) -> None:
    """It is found before the first batch, not with the first checkpoint."""
    file = tmp_path / "file"
    file.touch()
    options = {
        "Trainer": lambda: {"default_root_dir": file / "mine"},
        "CSVLogger": lambda: {"logger": pl.loggers.CSVLogger(file / "mine")},
        "ModelCheckpoint": lambda: {"callbacks": [pl.callbacks.ModelCheckpoint(file / "mine")]},
    }[owner]()
    module = module_of(pl)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", **options)
    with pytest.raises(lightning_shim.ConfigurationError, match=r"test_files\.py:\d+: .*mine, but .* is no folder"):
        trainer.fit(module, loader(), loader())
    assert module.batches == 0
