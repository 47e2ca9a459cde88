"""What Lightning warns a script of, a trial warns it of, in Lightning's words and by a class of its kind."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loops.optimization.automatic import Closure
from pytorch_lightning.utilities.rank_zero import WarningCache
from pytorch_lightning.utilities.warnings import PossibleUserWarning
from torch.utils.data import DataLoader, TensorDataset

import lightning_shim
from lightning_shim.upstream.lightning import lightning_of
from tests.script.test_errors import Plateau, returns, scheduler, step_lr, with_member
from tests.script.test_length import Stream, StreamOfAWrongLength
from tests.script.test_trainer_object import ARGUMENTS, Module, loader


class TakesBatches(Module):
    def training_step(self, dataloader_iter: Any) -> torch.Tensor:  # type: ignore[override]
        batch, *_ = next(dataloader_iter)
        loss: torch.Tensor = self.layer(batch[0]).square().mean()
        return loss


def frozen() -> Any:
    module = Module()
    module.layer.eval()
    return module


def logs_for_nobody() -> Any:
    return Module(lambda hook, module: module.log("epoch", 1.0, logger=True) if hook == "on_train_batch_end" else None)


def by_hand(optimizer: Any) -> Any:
    return scheduler(lambda optimizer: {"scheduler": Plateau(optimizer)}, monitor="loss")(optimizer)


def in_manual_optimization() -> Any:
    module = returns(by_hand)()
    module.automatic_optimization = False
    return module


def shuffled() -> DataLoader[Any]:
    return DataLoader(TensorDataset(torch.arange(6.0).view(-1, 3)), shuffle=True)


def with_gap() -> DataLoader[Any]:
    batches = iter([None, [torch.ones(1, 3)]])
    return DataLoader(TensorDataset(torch.ones(2, 3)), collate_fn=lambda batch: next(batches, [torch.ones(1, 3)]))


def after(steps: int, max_steps: int, **first: Any) -> Callable[[], dict[str, Any]]:
    """Writes a checkpoint, to go on from."""

    def arguments() -> dict[str, Any]:
        trainer = pl.Trainer(**{**ARGUMENTS, "max_epochs": 1, "max_steps": steps, **first})
        trainer.fit(Module(), loader(), loader(2))
        trainer.save_checkpoint("first.ckpt")
        return {"ckpt_path": "first.ckpt", "max_epochs": 2, "max_steps": max_steps}

    return arguments


Case = tuple[Callable[[], Any], type[Warning], str, Any]
CASES: dict[str, Case] = {
    "few workers": (Module, PossibleUserWarning, "The 'train_dataloader' does not have many workers", {}),
    "few workers to validate": (Module, PossibleUserWarning, "The 'val_dataloader' does not have many workers", {}),
    "length of a stream": (
        Module,
        UserWarning,
        "Your `IterableDataset` has `__len__` defined.",
        {"data": lambda: DataLoader(StreamOfAWrongLength())},
    ),
    "eval mode": (frozen, PossibleUserWarning, "Found 1 module(s) in eval mode at the start of training", {}),
    "iterator": (
        TakesBatches,
        PossibleUserWarning,
        "You are using the `dataloader_iter` step flavor",
        {},
    ),
    "rest of an epoch": (Module, PossibleUserWarning, "checkpoint that ended before the epoch ended", after(2, 4)),
    "no rest without max_steps": (Module, UserWarning, "checkpoint that ended before the epoch ended", after(2, -1)),
    "callback that is missing": (
        Module,
        UserWarning,
        "Please add the following callbacks: [\"EarlyStopping{'monitor': 'loss', 'mode': 'min'}\"]",
        after(-1, -1, callbacks=[EarlyStopping("loss")]),
    ),
    "shuffled and overfitted": (
        Module,
        UserWarning,
        "You requested to overfit but enabled train dataloader shuffling",
        {"data": shuffled, "overfit_batches": 1},
    ),
    "no optimizer": (returns(lambda optimizer: None), UserWarning, "this fit will run with no optimizer", {}),
    "no batch": (Module, UserWarning, "train_dataloader yielded None", {"data": with_gap}),
    "no loss": (
        with_member("training_step", lambda batch, batch_idx: None),
        UserWarning,
        "`training_step` returned `None`",
        {},
    ),
    "no logger": (logs_for_nobody, UserWarning, "`self.log('epoch', ..., logger=True)` but have no logger", {}),
    "no validation_step": (
        with_member("validation_step", None),
        UserWarning,
        "You passed in a `val_dataloader` but have no `validation_step`. Skipping val loop.",
        {},
    ),
    "key of a scheduler": (
        returns(scheduler(step_lr, foo=1)),
        RuntimeWarning,
        "Found unsupported keys in the lr scheduler dict: {'foo'}",
        {},
    ),
    "key of an optimizer": (
        returns(lambda optimizer: {"optimizer": optimizer, "foo": 1}),
        RuntimeWarning,
        "Found unsupported keys in the optimizer configuration: {'foo'}",
        {},
    ),
    "keys in manual optimization": (
        in_manual_optimization,
        RuntimeWarning,
        "The lr scheduler dict contains the key(s) ['monitor'], but the keys will be ignored.",
        {},
    ),
    "one cycle in epochs": (
        returns(scheduler(lambda one: {"scheduler": torch.optim.lr_scheduler.OneCycleLR(one, 0.1, total_steps=9)})),
        RuntimeWarning,
        "A `OneCycleLR` scheduler is using 'interval': 'epoch'",
        {},
    ),
    "plateau of what is not logged": (
        returns(scheduler(lambda one: {"scheduler": Plateau(one)}, monitor="giraffe", strict=False)),
        RuntimeWarning,
        "conditioned on metric giraffe which is not available but strict is set to `False`",
        {},
    ),
}
SINCE_2_6 = {"eval mode"}


def warned_by(make: Callable[[], Any], given: Any) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arguments = {**ARGUMENTS, "max_epochs": 1, **(given() if callable(given) else given)}
        data, ckpt_path = arguments.pop("data", loader), arguments.pop("ckpt_path", None)
        pl.Trainer(**arguments).fit(make(), data(), loader(2), ckpt_path=ckpt_path)
    return caught


@pytest.mark.parametrize("name", CASES)
def test_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make, category, sentence, given = CASES[name]
    # Lightning gives this one once in a process.
    monkeypatch.setattr(Closure, "warning_cache", WarningCache())
    # Few workers are no matter where there are few processors.
    monkeypatch.setattr("lightning_fabric.utilities.data._num_cpus_available", lambda: 4)

    def given_in(folder: str) -> list[str]:
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        caught = [each for each in warned_by(make, given) if sentence in str(each.message)]
        assert all(issubclass(each.category, category) for each in caught)
        return [str(each.message) for each in caught]

    theirs = given_in("lightning")
    with lightning_shim.patched(trainer=True):
        ours = given_in("ours")
    # A user's filter looks at the beginning of a message.
    assert {message.find(sentence) for message in ours} == {message.find(sentence) for message in theirs}
    assert theirs or name in SINCE_2_6 or name.startswith("no rest")


def test_stream_without_a_length_gives_none() -> None:
    with lightning_shim.patched(trainer=True), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        pl.Trainer(**ARGUMENTS).fit(Module(), DataLoader(Stream()), loader(2))


def test_class_is_that_of_the_namespace(lightning: Any) -> None:
    assert lightning_of(lightning.LightningModule).PossibleUserWarning.__module__.startswith(
        {"pytorch_lightning": "lightning_fabric."}.get(lightning.__name__, "lightning.fabric.")
    )
