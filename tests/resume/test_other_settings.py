"""A trial that is continued with other loaders or options than it had trains as much as Lightning's Trainer would."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_shim
from tests.parity.modules import Regression, dataset
from tests.resume.conftest import checkpoints
from tests.support.installed_versions import ALL_OF_THE_FILE

BATCHES = 6

Options = dict[str, Any]


class Counts(Regression):
    def __init__(self) -> None:
        super().__init__()
        seen: list[tuple[int, int]] = []
        samples: list[int] = []
        # A trial that goes on would have lists again; Lightning's Trainer would not.
        self.seen, self.samples = lambda: seen, lambda: samples

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.seen().append((self.current_epoch, batch_idx))
        self.samples().append(len(batch[0]))
        return super().training_step(batch, batch_idx)


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(dataset(options.pop("samples", 22)), **{"batch_size": 4, "shuffle": True, **options})


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def train(epochs: int, train_loader: Any, **options: Any) -> tuple[Counts, Path]:
        folder = tmp_path_factory.mktemp("checkpoints")
        monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
        module = Counts()
        with lightning_shim.patched():
            lightning_shim.fit(
                module,
                train_loader,
                loader(samples=8, shuffle=False),
                max_length=pytorch.Epoch(epochs),
                checkpoint_period=pytorch.Batch(1),
                reporting_period=pytorch.Batch(1),
                **options,
            )
        return module, folder

    return train


def fit_by_lightning(checkpoint: Path, epochs: int, train_loader: Any, **options: Any) -> tuple[Counts, int]:
    module = Counts()
    trainer = pl.Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )
    trainer.fit(
        module,
        train_loader,
        loader(samples=8, shuffle=False),
        ckpt_path=checkpoint / "state_dict.pth",
        **ALL_OF_THE_FILE,
    )
    return module, trainer.global_step


@pytest.mark.parametrize("epochs", [2, 3])
@pytest.mark.parametrize(
    "now",
    [{"batch_size": 2}, {"batch_size": 11}, {"samples": 26}, {"batch_size": 22}],
    ids=["more batches", "fewer", "one more", "one alone"],
)
def test_loaders_of_another_length(fit: Any, now: Options, epochs: int) -> None:
    _, folder = fit(1, loader())
    checkpoint = checkpoints(folder)[BATCHES]
    length = len(loader(**now))
    expected, global_step = fit_by_lightning(checkpoint, epochs, loader(**now))
    with pytest.warns(
        lightning_shim.DifferenceWarning,
        match=rf"written with 6 batches in an epoch, and is continued with {length} batches: epoch 1 goes on after 0 ",
    ):
        module, _ = fit(epochs, loader(**now), latest_checkpoint=checkpoint)
    assert module.seen() == expected.seen()
    assert sorted(module.samples()) == sorted(expected.samples())
    assert module.seen() == [(epoch, index) for epoch in range(1, epochs) for index in range(length)]
    assert torch.load(checkpoint / "state_dict.pth")["global_step"] + len(module.seen()) == global_step


@pytest.mark.parametrize(("batches", "trained"), [(1, 0), (2, 1), (3, 1), (5, 2)])
def test_within_an_epoch(fit: Any, batches: int, trained: int) -> None:
    _, folder = fit(2, loader())
    with pytest.warns(lightning_shim.DifferenceWarning, match=f"epoch 0 goes on after {trained} of 3 batches"):
        module, _ = fit(2, loader(batch_size=8), latest_checkpoint=checkpoints(folder)[batches])
    assert module.seen() == [divmod(index, 3) for index in range(trained, 6)]


def test_loaders_that_get_a_length(fit: Any) -> None:
    _, folder = fit(1, loader(), limit_train_batches=5)
    with pytest.warns(lightning_shim.DifferenceWarning, match="with 5 batches in an epoch"):
        module, _ = fit(2, loader(), latest_checkpoint=checkpoints(folder)[5])
    assert module.seen() == [(1, index) for index in range(BATCHES)]


@pytest.mark.parametrize("batches", [6, 9, 12])
@pytest.mark.parametrize(("before", "now"), [(1, 5), (4, 1), (2, 3)])
def test_another_accumulation(fit: Any, before: int, now: int, batches: int) -> None:
    _, folder = fit(2, loader(), accumulate_grad_batches=before)
    checkpoint = checkpoints(folder)[batches]
    with warnings.catch_warnings():
        warnings.simplefilter("error", lightning_shim.LightningShimWarning)
        module, ended = fit(4, loader(), accumulate_grad_batches=now, latest_checkpoint=checkpoint)
    assert module.seen() == [divmod(index, BATCHES) for index in range(batches, 4 * BATCHES)]
    saved = torch.load(checkpoints(ended)[4 * BATCHES] / "state_dict.pth")
    if batches % BATCHES == 0:
        _, global_step = fit_by_lightning(checkpoint, 4, loader(), accumulate_grad_batches=now)
        assert saved["global_step"] == global_step
