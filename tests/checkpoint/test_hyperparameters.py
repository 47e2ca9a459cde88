"""The hyperparameters in a checkpoint are those that Lightning's Trainer would have put there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch
from omegaconf import DictConfig, OmegaConf

import lightning_shim
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")


def module_class(lightning: ModuleType) -> type:
    class Module(tiny(lightning)):
        def __init__(self, rate: float = 0.1, metric: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.metric = metric

    return Module


def configured_class(lightning: ModuleType) -> type:
    class Configured(tiny(lightning)):
        def __init__(self, config: Any) -> None:
            super().__init__()
            self.save_hyperparameters(config)
            self.rate = config.optimizer.rate

    return Configured


def data_class(lightning: ModuleType) -> type:
    class Data(lightning.LightningDataModule):  # type: ignore[name-defined,misc]
        def __init__(self, samples: int = 16, transform: Any = None) -> None:
            super().__init__()
            self.save_hyperparameters()

        def train_dataloader(self) -> Any:
            self.hparams.transform(0)
            return loader(self.hparams.samples)

    return Data


def config() -> DictConfig:
    return OmegaConf.create({"optimizer": {"rate": 0.1}, "betas": [0.9, "${optimizer.rate}"]})


def by_lightning(lightning: ModuleType, module: Any) -> dict[str, Any]:
    """The checkpoint that Lightning's Trainer writes."""
    fit_by_lightning(lightning, module, loader(), max_epochs=1).save_checkpoint("lightning.ckpt")
    content: dict[str, Any] = torch.load("lightning.ckpt", weights_only=False)
    return content


def by_fit(module: Any, **data: Any) -> Path:
    """The checkpoint that a trial writes."""
    trial = lightning_shim.fit(module, **data, max_length=pytorch.Epoch(1))
    return Path(str(trial.checkpoint_path)) / "state_dict.pth"


def hyperparameters(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in checkpoint.items() if "hparams" in key or "hyper_parameters" in key}


DROPPED = "(?i)attribute '{}' removed from hparams because it cannot be pickled"


def test_one_that_cannot_be_pickled_is_dropped_when_fit_starts(lightning: ModuleType) -> None:
    modules = [module_class(lightning)(metric=lambda value: value) for _ in range(2)]
    with pytest.warns(UserWarning, match=DROPPED.format("metric")):
        expected = hyperparameters(by_lightning(lightning, modules[0]))
    with pytest.warns(UserWarning, match=DROPPED.format("metric")):
        path = by_fit(modules[1], train_dataloaders=loader())
    assert hyperparameters(torch.load(path, weights_only=False)) == expected
    assert dict(modules[1].hparams) == dict(modules[0].hparams) == {"rate": 0.1}
    assert modules[1].metric(1) == 1
    assert dict(module_class(lightning).load_from_checkpoint(path).hparams) == {"rate": 0.1, "metric": None}


def test_data_module_keeps_what_cannot_be_pickled(lightning: ModuleType) -> None:
    """Lightning trains with it, but can write no checkpoint; here there is always one."""
    data = data_class(lightning)(transform=lambda value: value)
    with pytest.warns(UserWarning, match=DROPPED.format("transform")):
        path = by_fit(tiny(lightning)(), datamodule=data)
    assert data.hparams.transform(1) == 1
    assert torch.load(path, weights_only=False)["datamodule_hyper_parameters"] == {"samples": 16}


@pytest.mark.lightning(">=2.6")  # Older ones cannot load such a checkpoint with the PyTorch of today.
def test_configuration_keeps_its_type(lightning: ModuleType) -> None:
    expected = hyperparameters(by_lightning(lightning, configured_class(lightning)(config())))
    path = by_fit(configured_class(lightning)(config()), train_dataloaders=loader())
    actual = hyperparameters(torch.load(path, weights_only=False))
    assert actual == expected
    assert actual["hparams_type"] is DictConfig
    # What is interpolated stays so.
    assert OmegaConf.to_container(actual["hyper_parameters"]) == OmegaConf.to_container(config())
    loaded = configured_class(lightning).load_from_checkpoint(path, weights_only=False)
    assert isinstance(loaded.hparams, DictConfig)
    assert loaded.rate == loaded.hparams.betas[1] == 0.1


def test_configuration_is_continued_from(lightning: ModuleType) -> None:
    class Changes(configured_class(lightning)):
        def on_train_batch_end(self, *_: Any) -> None:
            self.hparams.optimizer.rate += 1

    path = by_fit(Changes(config()), train_dataloaders=loader())
    module = Changes(config())
    options = {"latest_checkpoint": path.parent, "max_length": pytorch.Epoch(2)}
    lightning_shim.fit(module, loader(), **options)
    assert module.hparams.betas[1] == 0.1 + 8
