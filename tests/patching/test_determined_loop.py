"""Determined's loop over batches, of which LightningTrial has a leaner one: what happens when must be the same."""

from __future__ import annotations

import hashlib
import inspect
import re
import textwrap
import tokenize
from types import ModuleType
from typing import Any

import determined.pytorch
import pytest
import torch
from determined import core, pytorch
from determined.pytorch import Batch, Epoch
from pytest_mock import MockerFixture
from torch.utils.data import DataLoader

import lightning_shim
from tests.support.tiny import loader, tiny

EPOCH_LENGTH = 4

SOURCES = {
    "_train_with_boundaries": "26635e74b6db2366e5f26ddd4406b0d183f3ea9da6fffbfafeb573a96ed74d4a",
    "_train_batch": "ef20467ed539560078a6f2eff4920ef250967b150e88923cd1878a67b6dac613",
}
"""Digests of what the leaner loop takes the place of, without comments and layout."""


def digest(function: Any) -> str:
    lines = textwrap.dedent(inspect.getsource(function)).splitlines(keepends=True)
    tokens = tokenize.generate_tokens(iter(lines).__next__)
    words = [token.string for token in tokens if token.type != tokenize.COMMENT]
    return hashlib.sha256(" ".join(" ".join(words).split()).encode()).hexdigest()


class HandWritten(pytorch.PyTorchTrial):
    """Trains a linear layer on batches without end."""

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        context.experimental.disable_dataset_reproducibility_checks()
        self.context = context
        self.model = context.wrap_model(torch.nn.Linear(2, 1))
        self.optimizer = context.wrap_optimizer(torch.optim.SGD(self.model.parameters(), lr=0.1))

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
        self.context.backward(self.model(batch).sum())
        self.context.step_optimizer(self.optimizer)
        return {}

    def evaluate_batch(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        return {}

    def build_training_data_loader(self) -> Any:
        return pytorch.DataLoader(list(torch.ones(EPOCH_LENGTH, 2)), batch_size=1)

    def build_validation_data_loader(self) -> Any:
        return pytorch.DataLoader(list(torch.ones(1, 2)), batch_size=1)


def lightning_trial(
    context: pytorch.PyTorchTrialContext, pl: ModuleType, max_length: Any, trial_class: Any = None
) -> Any:
    class Lit(pl.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.layer(batch).sum()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loaders = {
        "train_dataloaders": DataLoader(list(torch.ones(EPOCH_LENGTH, 2))),
        "val_dataloaders": DataLoader(list(torch.ones(1, 2))),
    }
    return (trial_class or lightning_shim.LightningTrial)(context, Lit(), max_length=max_length, **loaders)


def events(make_trial: Any, mocker: MockerFixture, **fit_options: Any) -> list[tuple[Any, ...]]:
    """Runs a trial and returns what Determined was told, and when."""
    reports = mocker.spy(core.DummyTrainContext, "_report_trial_metrics")
    progress = mocker.spy(core.DummyTrainContext, "report_progress")
    saves = mocker.spy(core.CheckpointContext, "store_path")
    with pytorch.init() as context:
        pytorch.Trainer(make_trial(context), context).fit(checkpoint_policy="none", **fit_options)
    seen = [("report", call.args[1], call.args[2], sorted(call.args[3].items())) for call in reports.call_args_list]
    seen += [("progress", call.kwargs["progress"]) for call in progress.call_args_list]
    seen += [("checkpoint", call.args[1]["steps_completed"]) for call in saves.call_args_list]
    mocker.stopall()
    return seen


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": Batch(10)},
        {"max_length": Batch(11), "reporting_period": Batch(3)},
        {"max_length": Epoch(3), "reporting_period": Batch(5)},
        {"max_length": Epoch(4), "validation_period": Epoch(2), "reporting_period": Batch(100)},
        {"max_length": Epoch(2), "validation_period": Batch(3), "checkpoint_period": Batch(4)},
        {"max_length": Batch(9), "validation_period": Batch([2, 7]), "reporting_period": Batch(100)},
        {"max_length": Epoch(4), "checkpoint_period": Epoch([1, 3]), "reporting_period": Batch(100)},
        {"max_length": Batch(6), "validation_period": Batch(0), "reporting_period": Batch(4)},
        {"max_length": Epoch(3), "reporting_period": Batch(2), "test_mode": True},
        {"max_length": Batch(6), "reporting_period": Batch(4), "step_zero_validation": True},
    ],
    ids=lambda options: ",".join(
        f"{name}={getattr(value, 'value', value)}{type(value).__name__[0]}" for name, value in options.items()
    ),
)
def test_reports_validations_and_checkpoints_are_those_of_determineds_own_loop(
    options: dict[str, Any], pl: ModuleType, patched: None, mocker: MockerFixture
) -> None:
    expected = events(HandWritten, mocker, **options)
    actual = events(lambda context: lightning_trial(context, pl, options["max_length"]), mocker, **options)
    assert actual == expected
    assert any(event[0] == "report" for event in expected)


def test_a_profiler_of_determineds_context_profiles_every_batch(pl: ModuleType, patched: None) -> None:
    steps = []

    class Profiler:
        def __enter__(self) -> None:
            steps.append("enter")

        def __exit__(self, *args: Any) -> None:
            steps.append("exit")

        def step(self) -> None:
            steps.append("step")

    with pytorch.init() as context:
        trial = lightning_trial(context, pl, Batch(3))
        context.profiler = Profiler()
        pytorch.Trainer(trial, context).fit(max_length=Batch(3), checkpoint_policy="none")
    assert steps == ["enter", "step", "exit"] * 3


def test_metrics_that_a_subclass_returns_are_averaged(pl: ModuleType, patched: None, mocker: MockerFixture) -> None:
    class Trial(lightning_shim.LightningTrial):
        def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> dict[str, Any]:
            return {
                **super().train_batch(batch, epoch_idx, batch_idx),
                "index": torch.tensor(float(batch_idx), requires_grad=True),
            }

    seen = events(
        lambda context: lightning_trial(context, pl, Batch(4), Trial),
        mocker,
        max_length=Batch(4),
        reporting_period=Batch(2),
    )
    assert [dict(event[3])["index"] for event in seen if event[:2] == ("report", "training")] == [0.5, 2.5]


@pytest.mark.parametrize("name", SOURCES)
def test_determineds_loop_is_the_one_that_was_read(name: str) -> None:
    assert digest(getattr(determined.pytorch._PyTorchTrialController, name)) == SOURCES[name], (
        f"Determined's {name} has changed: see whether lightning_shim._determined still does the same."
    )


def test_log_of_a_validation_does_not_count_it_as_one_batch(
    pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture
) -> None:
    class Lit(tiny(pl)):  # type: ignore[misc]
        def validation_step(self, batch: Any, batch_idx: int) -> None:
            pass

    with caplog.at_level("INFO", "determined.pytorch"):
        lightning_shim.fit(Lit(), loader(), loader(), max_length=pytorch.Epoch(1))
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("validated: ")]
    assert re.fullmatch(rf"validated: {len(loader())} batches in \S+s \(\S+ batches/s\)", line)
