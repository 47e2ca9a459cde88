"""Names that are monitored and never logged: said when the trial is built, or not at all."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
from pytest_mock import MockerFixture

from lightning_shim import DifferenceWarning
from lightning_shim.compatibility.monitored_names import warn_of_names_never_logged
from lightning_shim.trial.configuration import Configuration
from lightning_shim.upstream.lightning import lightning_of
from tests.support.refusals import no_warnings_of_ours, train, warns
from tests.support.tiny import loader

HEAD = """
import math
import torch
import pytorch_lightning as pl

class Base(pl.LightningModule):
    def __init__(self, **extra):
        super().__init__()
        self.layer = torch.nn.Linear(3, 1)
        self.steps = 0

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}

    def _shared(self, batch, stage):
        loss = self.layer(batch[0]).square().mean()
        self.log(f"{stage}_loss", loss)
        return loss

    def training_step(self, batch, batch_idx):
        self.log("lr", math.log(2.0), on_step=True, on_epoch=True)
        return self._shared(batch, "train")

    def validation_step(self, batch, batch_idx):
        self._shared(batch, "val")

    def test_step(self, batch, batch_idx):
        self._shared(batch, "test")
        self.log(f"{batch_idx}", 1.0)

class NotInvolved(Base):
    def training_step(self, batch, batch_idx):
        self.log(f"name_{batch_idx}", 1.0)
"""


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Callable[[str], ModuleType]]:
    """Writes and imports a file of a user's."""
    names = []

    def write(text: str) -> ModuleType:
        path = tmp_path / "users_module.py"
        path.write_text(HEAD + text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        names.append(path.stem)
        spec.loader.exec_module(module)
        return module

    yield write
    for name in names:
        sys.modules.pop(name, None)


def place(module: ModuleType, cls: str) -> str:
    lines = Path(str(module.__file__)).read_text().splitlines()
    return f"{module.__file__}:{1 + next(n for n, line in enumerate(lines) if line.startswith(f'class {cls}('))}"


def judge(module: Any, monitor: str, others: Any = (), searcher_metric: str | None = None) -> None:
    warn_of_names_never_logged(lightning_of(module), module, others, [("EarlyStopping", monitor)], searcher_metric)


@pytest.mark.parametrize(
    "name",
    [
        "val_loss",
        "train_loss",
        "lr",
        "lr_step",
        "lr_epoch",
        "val_loss/dataloader_idx_1",
        "epoch",
        "lr-SGD",
    ],
)
def test_names_that_come(written: Callable[[str], ModuleType], name: str) -> None:
    with no_warnings_of_ours():
        judge(written("").Base(), name)


def test_name_that_cannot_come(written: Callable[[str], ModuleType]) -> None:
    users = written("")
    expected = (
        "^EarlyStopping monitors 'val_los', which Base never logs; it logs 'lr', 'train_loss', "
        r"'val_loss'. Did you mean 'val_loss'\?$"
    )
    with warns(DifferenceWarning, place(users, "Base"), expected):
        judge(users.Base(), "val_los")


def test_metric_of_the_searcher_is_one_of_validation(written: Callable[[str], ModuleType]) -> None:
    users = written("")
    with no_warnings_of_ours():
        judge(users.Base(), "val_loss", searcher_metric="val_loss")
    with warns(
        DifferenceWarning, place(users, "Base"), "searcher.metric .* is 'train_loss', which Base never logs; it"
    ):
        judge(users.Base(), "val_loss", searcher_metric="train_loss")


@pytest.mark.parametrize(
    "text",
    [
        "class Users(Base):\n    def on_train_epoch_end(self):\n        self.log(f'{self.current_epoch}_x', 1.0)\n",
        "class Users(Base):\n    def on_train_epoch_end(self):\n        self.log_dict(self.metrics.compute())\n",
        "class Users(Base):\n    def on_train_epoch_end(self):\n"
        "        for name in ('wanted',):\n            self.log(name, 1.0)\n",
        "class Users(Base):\n    def on_train_epoch_end(self):\n"
        "        name = 'want'\n        name += 'ed'\n        self.log(name, 1.0)\n",
        "class Users(Base):\n    def on_train_epoch_end(self):\n"
        "        values = {'loss': 1.0}\n        values.update(wanted=2.0)\n        self.log_dict(values)\n",
        "class Users(Base):\n    def on_train_epoch_end(self):\n        help_to_log(self, 'wanted')\n"
        "def help_to_log(module, name):\n    module.log(name, 1.0)\n",
        "class Users(Base):\n    def on_train_epoch_end(self):\n"
        "        self.trainer.callback_metrics['wanted'] = torch.tensor(1.0)\n",
        "class Users(Base):\n    def __init__(self):\n        super().__init__()\n"
        "        self.on_train_epoch_end = lambda: self.log('want' + 'ed', 1.0)\n",
        "def made():\n    class Users(Base):\n        pass\n    Users.on_train_epoch_end = eval('lambda self: 1')\n"
        "    return Users\nUsers = made()\n",
    ],
    ids=["f-string", "computed", "loop", "added", "updated", "function", "views", "instance", "without source"],
)
def test_nothing_is_said_where_the_source_does_not_tell(written: Callable[[str], ModuleType], text: str) -> None:
    module = written(text).Users()
    with no_warnings_of_ours():
        judge(module, "wanted")


def test_callbacks_and_submodules_log_too(written: Callable[[str], ModuleType]) -> None:
    users = written(
        "class Logs(pl.Callback):\n    def on_train_epoch_end(self, trainer, pl_module):\n"
        "        pl_module.log('by_callback', 1.0)\n"
        "class LogsByName(pl.Callback):\n    def on_train_epoch_end(self, trainer, pl_module):\n"
        "        self.log(str(trainer.current_epoch), 1.0)\n"
    )
    with no_warnings_of_ours():
        judge(users.Base(), "by_callback", [users.Logs()])
        judge(users.Base(), "0", [users.LogsByName()])
    with pytest.warns(DifferenceWarning, match="monitors '0'"):
        judge(users.Base(), "0", [users.Logs()])


@pytest.mark.usefixtures("patched")
def test_trial_looks_at_callbacks_schedulers_and_configuration(
    written: Callable[[str], ModuleType], mocker: MockerFixture
) -> None:
    module = written("").Base()
    config = {"searcher": {"metric": "accuracy"}}
    mocker.patch.object(Configuration, "of_experiment", return_value=Configuration(config))
    checkpoints = pl.callbacks.ModelCheckpoint(monitor="loss", save_on_train_epoch_end=False, every_n_train_steps=100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(module, loader(), loader(), callbacks=[checkpoints])
    said = [str(warning.message).partition(",")[0] for warning in caught if "never logs" in str(warning.message)]
    assert said == [
        "ModelCheckpoint monitors 'loss'",
        "searcher.metric of the experiment's configuration is 'accuracy'",
    ]
