"""One file that both sides can load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from torch import Tensor, nn

import lightning_shim
from lightning_shim import CheckpointError
from tests.parity.modules import loaders

pytestmark = pytest.mark.usefixtures("patched")


class Wide(pl.LightningModule):
    """Has enough weights that a file in which they stood twice would show it."""

    def __init__(self, width: int = 300) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layers = nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 1))
        self.loaded: list[Any] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        return nn.functional.mse_loss(self.layers(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        assert checkpoint["state_dict"].keys() == self.state_dict().keys()
        checkpoint["mine"] = (checkpoint["epoch"], checkpoint["global_step"], self.current_epoch)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.loaded.append(checkpoint["mine"])


def train(module: Any, **options: Any) -> Any:
    data = {"train_dataloaders": loaders()["train_dataloaders"]}
    return lightning_shim.fit(module, **data, **options)


@pytest.fixture
def trial() -> Any:
    return train(Wide(width=310), max_length=pytorch.Epoch(1))


def test_lightning_loads_the_module(trial: Any) -> None:
    # Determined saves NumPy's random state, which PyTorch loads only if told to trust the file.
    loaded = Wide.load_from_checkpoint(Path(trial.checkpoint_path) / "state_dict.pth")
    assert loaded.hparams.width == 310
    for name, value in trial.module.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_weights_are_written_once(trial: Any) -> None:
    weights = sum(value.nbytes for value in trial.module.state_dict().values())
    assert (Path(trial.checkpoint_path) / "state_dict.pth").stat().st_size < 1.2 * weights


def test_hooks_get_what_they_expect(trial: Any) -> None:
    assert trial.module.loaded == []
    resumed = train(Wide(width=310), max_length=pytorch.Epoch(2), latest_checkpoint=trial.checkpoint_path)
    assert resumed.module.loaded == [(1, 6, 1)]
    assert (resumed.trainer.current_epoch, resumed.trainer.global_step) == (2, 12)


class ChangesWeightsAtTheEnd(Wide):
    def on_train_epoch_end(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(1.0 + self.current_epoch)


@pytest.mark.parametrize("validation", [pytorch.Epoch(1), pytorch.Batch(100)], ids=["validated", "not validated"])
def test_checkpoint_at_the_end_of_an_epoch_has_what_the_end_changed(validation: Any) -> None:
    module = ChangesWeightsAtTheEnd(width=10)
    saved = []

    class Recorder(pl.Callback):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
            saved.append(checkpoint["state_dict"]["layers.0.bias"][0].item())

    options = {"checkpoint_period": pytorch.Epoch(1), "checkpoint_policy": "none", "validation_period": validation}
    train(module, max_length=pytorch.Epoch(3), callbacks=[Recorder()], **options)
    assert saved == [1.0, 2.0, 3.0]


SUBCLASS = """
import lightning_shim
from tests.checkpoint.test_one_file import Wide
from tests.parity.modules import loaders

class WideTrial(lightning_shim.LightningTrial):
    def build_module(self):
        module = Wide(width=self.context.get_hparam("width"))
        module.train_dataloader = lambda: loaders()["train_dataloaders"]
        return module
"""


class TestDeterminedLoadsTheTrial:
    """By ``determined.pytorch.load_trial_from_checkpoint_path``, with PyTorch's defaults."""

    def test_of_a_subclass(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "wide_trial.py").write_text(SUBCLASS)
        monkeypatch.syspath_prepend(tmp_path)
        import wide_trial

        try:
            with pytorch.init(hparams={"width": 7}, exp_conf={}) as context:
                trained = wide_trial.WideTrial(context)
                pytorch.Trainer(trained, context).fit(max_length=pytorch.Batch(3))
            torch.manual_seed(1)
            loaded = pytorch.load_trial_from_checkpoint_path(str(trained.checkpoint_path))
        finally:
            del sys.modules["wide_trial"]
        assert type(loaded).__name__ == "WideTrial"
        self.assert_loaded(loaded, trained)

    def test_of_fit(self, trial: Any) -> None:
        arguments = {"module": Wide(width=310), "train_dataloaders": loaders()["train_dataloaders"]}
        path = str(trial.checkpoint_path)
        self.assert_loaded(pytorch.load_trial_from_checkpoint_path(path, trial_kwargs=arguments), trial)

    @staticmethod
    def assert_loaded(loaded: Any, trained: Any) -> None:
        weights = trained.module.state_dict()
        assert loaded.module is not trained.module
        assert loaded.module.state_dict().keys() == weights.keys()
        assert all(torch.equal(value, weights[name]) for name, value in loaded.module.state_dict().items())
        inputs = torch.randn(2, 5)
        assert torch.equal(loaded.module.layers(inputs), trained.module.layers(inputs))

    def test_of_fit_without_the_module(self, trial: Any) -> None:
        with pytest.raises(
            CheckpointError, match=r"LitModel\.load_from_checkpoint\(path \+ '/state_dict.pth'\)"
        ) as caught:
            pytorch.load_trial_from_checkpoint_path(str(trial.checkpoint_path))
        assert str(caught.value).startswith(__file__)
        assert "LitModel.load_from_checkpoint(path + '/state_dict.pth')" in str(caught.value)
        assert "trial_kwargs={'module': LitModel, ...}" in str(caught.value)
