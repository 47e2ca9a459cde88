"""ThroughputMonitor counts and logs as under Lightning; its times and rates are of a clock."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytest_mock import MockerFixture
from pytorch_lightning import plugins
from pytorch_lightning.callbacks import ThroughputMonitor, throughput_monitor
from pytorch_lightning.loggers import Logger

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, run_determined, run_lightning
from tests.support.recording import Recording, recording_logger

CLASSES = (plugins.Precision, plugins.DoublePrecision, plugins.HalfPrecision, plugins.MixedPrecision)


class Flops(Regression):
    flops_per_batch = 10


def counts(recording: Recording) -> dict[int, list[Any]]:
    kinds = ("batches", "samples", "lengths")
    counted = {
        step: sorted(entry for entry in values if entry[0].rpartition("/")[2] in kinds)
        for step, values in recording.logged.items()
    }
    return {step: values for step, values in counted.items() if values}


@pytest.mark.lightning(">=2.6")  # In 2.2 it fails under Lightning as well, in the second epoch.
def test_counts_and_steps(mocker: MockerFixture) -> None:
    def monitor() -> list[Any]:
        return [ThroughputMonitor(lambda batch: len(batch[0]), lambda batch: batch[0].numel())]

    options = {"accumulate_grad_batches": 2}
    case = Case(Flops, loaders, max_epochs=2, callbacks=monitor, options=options, every_hook=False)
    theirs, ours = counts(run_lightning(case)), Recording()
    run_determined(case, mocker, logger=recording_logger(Logger, ours))
    assert counts(ours) == theirs
    # Of two epochs with three steps and three validation batches each.
    assert [name for values in theirs.values() for name, _ in values].count("train/samples") == 6
    assert [name for values in theirs.values() for name, _ in values].count("validate/samples") == 6


class SeesPrecision(pl.Callback):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        plugin = trainer.precision_plugin
        self.seen += [isinstance(plugin, one) for one in CLASSES] + [plugin.precision]
        # By which ThroughputMonitor finds the device's best rate; private.
        self.seen.append(throughput_monitor._plugin_to_compute_dtype(plugin))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-true", "bf16-mixed"])
def test_precision_is_lightnings(mocker: MockerFixture, precision: str) -> None:
    ours, theirs = SeesPrecision(), SeesPrecision()
    for run, callback in ((lambda case: run_determined(case, mocker), ours), (run_lightning, theirs)):
        run(
            Case(
                Regression,
                loaders,
                max_epochs=1,
                callbacks=lambda callback=callback: [callback],
                options={"precision": precision},
            )
        )
    assert ours.seen == theirs.seen
    assert isinstance(ours.seen[-1], torch.dtype)
