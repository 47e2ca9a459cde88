"""A script's ``strategy="ddp"`` for one device: what it trains and shows is what Lightning's own Trainer gives."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from determined.pytorch import Epoch
from pytorch_lightning.strategies import DDPStrategy
from torch import distributed
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler
from torch.utils.data.distributed import DistributedSampler

import lightning_shim
from tests.script.test_trainer_object import ARGUMENTS

# Lightning's own all_gather calls it.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed.nn.functional.all_gather is deprecated:FutureWarning")

SAMPLES = TensorDataset(torch.arange(10.0).reshape(10, 1))


@pytest.fixture(autouse=True)
def _leaves_the_process_as_it_was() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield
        leave_group()


def leave_group() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


class Module(pl.LightningModule):
    """Notes the samples of each batch, and what it sees of the processes."""

    def __init__(self, loader: Callable[[], Any] = lambda: DataLoader(SAMPLES, batch_size=3, shuffle=True)) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
        self.loader = loader
        self.seen: list[Any] = []

    def note(self, hook: str, batch: Any) -> torch.Tensor:
        self.seen.append((hook, batch[0].flatten().tolist(), torch.is_inference_mode_enabled()))
        return self.layers(batch[0]).mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 0:
            trainer = self.trainer
            sampler = trainer.train_dataloader.sampler
            self.seen += [type(sampler).__name__, getattr(sampler, "epoch", None)]
            self.seen += [type(each.sampler).__name__ for each in [trainer.val_dataloaders]]
            self.seen += [distributed.is_initialized(), trainer.world_size, trainer.distributed_sampler_kwargs]
            self.seen += [tuple(self.all_gather(torch.zeros(2)).shape), type(trainer.strategy.model).__name__]
            self.seen.append(trainer.strategy.reduce(torch.ones(1)).item())
        loss = self.note("training", batch)
        self.log("loss", loss, sync_dist=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.note("validation", batch), sync_dist=True)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.note("test", batch), sync_dist=True)

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.note("predict", batch)

    def train_dataloader(self) -> Any:
        return self.loader()

    def val_dataloader(self) -> Any:
        return DataLoader(SAMPLES, batch_size=4)

    test_dataloader = predict_dataloader = val_dataloader

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.1)


def shown(trainer: pl.Trainer) -> list[Any]:
    """What a script sees of its Trainer's strategy."""
    return [type(trainer.strategy).__name__, trainer.distributed_sampler_kwargs, trainer.world_size]


def own_sampler() -> Any:
    return DataLoader(SAMPLES, batch_size=3, sampler=DistributedSampler(SAMPLES))


class Named(DDPStrategy):
    """A user's own in name only."""

    strategy_name = "named"

    def __init__(self) -> None:
        super().__init__(find_unused_parameters=True)


@pytest.mark.parametrize("is_seeded", [False, True])
@pytest.mark.parametrize(
    "make_strategy",
    [
        lambda: "ddp",
        lambda: "ddp_find_unused_parameters_true",
        lambda: DDPStrategy(static_graph=True, process_group_backend="gloo", timeout=timedelta(minutes=1)),
        Named,
    ],
    ids=["ddp", "unused parameters", "object", "own in name"],
)
def test_trains_and_evaluates_as_under_lightning(compared: Any, make_strategy: Any, is_seeded: bool) -> None:
    def script() -> Any:
        leave_group()
        if is_seeded:
            pl.seed_everything(3)
        model, strategy = Module(), make_strategy()
        trainer = pl.Trainer(**ARGUMENTS, devices=1, strategy=strategy)
        before = shown(trainer)
        trainer.fit(model)
        numbers = torch.rand(2)
        results = trainer.validate(model, verbose=False), trainer.test(model, verbose=False), trainer.predict(model)
        model.loader = own_sampler
        trainer.fit_loop.max_epochs = 3
        trainer.fit(model)
        predictions = trainer.predict(model, own_sampler())
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        rest = [shown(trainer), trainer.strategy is strategy, numbers, torch.rand(2), metrics]
        return before, model.seen, results, predictions, model.state_dict(), rest

    compared(script)


class Manual(Module):
    """A module that steps by itself, each second time without an exchange of gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        self.manual_backward(self.note("training", batch))
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("arguments", "make_module"),
    [
        ({"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}, Module),
        ({"precision": "bf16-mixed"}, Module),
        ({"use_distributed_sampler": False}, lambda: Module(own_sampler)),
        ({"reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 2}, Module),
        ({"overfit_batches": 2}, lambda: Module(lambda: DataLoader(SAMPLES, batch_size=3))),
        ({"devices": 2, "num_nodes": 3}, Module),
        ({}, Manual),
        ({}, lambda: Module(lambda: DataLoader(SAMPLES, batch_size=3, sampler=WeightedRandomSampler([1, 2] * 5, 7)))),
    ],
    ids=["accumulated", "mixed", "own sampler", "reloaded", "overfits", "other processes", "manual", "weights"],
)
def test_options_are_those_of_lightning(compared: Any, arguments: dict[str, Any], make_module: Any) -> None:
    def script() -> Any:
        leave_group()
        model = make_module()
        is_lightnings = Path.cwd().name == "lightning"
        own = {**arguments, "devices": 1, "num_nodes": 1} if is_lightnings else arguments
        # Lightning starts a process for it, of which the script gets the weights.
        strategy = "ddp" if is_lightnings else "ddp_spawn"
        trainer = pl.Trainer(**{**ARGUMENTS, "strategy": strategy, **own})
        trainer.fit(model)
        return model.seen, model.state_dict(), torch.rand(2), trainer.global_step

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Trainer\((devices|num_nodes)", lightning_shim.DifferenceWarning)
        compared(script)


# So warns Lightning's validation without DDP as soon as there is a process group.
@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log:UserWarning")
def test_process_group_outlives_a_fit(compared: Any) -> None:
    def script() -> Any:
        leave_group()
        model, found = Module(), []
        with pytest.raises(KeyError):
            pl.Trainer(**ARGUMENTS, strategy="ddp").fit(Module(lambda: {}["missing"]))
        for strategy in ("auto", "ddp", "auto"):
            trainer = pl.Trainer(**{**ARGUMENTS, "max_epochs": 1}, strategy=strategy)
            trainer.fit(model)
            found += [trainer.predict(model), trainer.strategy.__class__.__name__, distributed.is_initialized()]
        return found, model.seen, model.state_dict(), torch.rand(2)

    compared(script)


def test_unused_parameters_are_an_error(compared: Any) -> None:
    class Unused(Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = torch.nn.Linear(1, 1)

    def script() -> Any:
        leave_group()
        with pytest.raises(RuntimeError, match=r"unused|no part"):
            pl.Trainer(**ARGUMENTS, strategy="ddp").fit(Unused())
        model = Unused()
        trainer = pl.Trainer(**ARGUMENTS, strategy="ddp_find_unused_parameters_true")
        trainer.fit(model)
        return model.seen, model.state_dict()

    compared(script)


@pytest.mark.filterwarnings("ignore:Module.(test|predict)_(step|dataloader) is ignored")
def test_trial_without_a_script(compared: Any) -> None:
    def script() -> Any:
        leave_group()
        if Path.cwd().name == "lightning":
            pl.seed_everything(0)
            model = Module()
            pl.Trainer(**{**ARGUMENTS, "num_sanity_val_steps": 0}, strategy="ddp").fit(model)
        else:
            options = {"strategy": "ddp", "num_sanity_val_steps": 0, "seed": 0}
            model = lightning_shim.fit(Module, max_length=Epoch(2), checkpoint_policy="none", **options).module
        return model.seen, model.state_dict(), torch.rand(2)

    compared(script)
