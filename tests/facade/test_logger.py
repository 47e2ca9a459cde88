"""``self.logger``: what a module writes arrives in Determined's TensorBoard files and in its metrics."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import pytest
import torch
from determined import core, pytorch
from pytest_mock import MockerFixture
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

import lightning_shim
from lightning_shim import DifferenceWarning, MetricError, RefusedMemberError
from lightning_shim.members.member import Support
from lightning_shim.members.query import members
from tests.support.places import place_in


def place(marker: str) -> str:
    return place_in(Path(__file__), marker)


def train(lightning: ModuleType, log: Any, **module_attributes: Any) -> Any:
    """Trains for two batches with a module that does something with its logger in the last one."""

    class Logs(lightning.LightningModule):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)
            for name, value in module_attributes.items():
                setattr(self, name, value)

        def forward(self, inputs: Any) -> Any:
            return self.layer(inputs)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 1:
                log(self)
            return self(batch).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = DataLoader(torch.ones(4, 3), batch_size=2)
    return lightning_shim.fit(Logs(), loader, max_length=pytorch.Batch(2), checkpoint_policy="none")


def events() -> EventAccumulator:
    """Reads what was written for TensorBoard."""
    accumulator = EventAccumulator("lightning_logs/version_0")
    accumulator.Reload()
    return accumulator


@pytest.mark.usefixtures("patched")
class TestExperiment:
    def test_everything_arrives(self, lightning: ModuleType) -> None:
        mpl.use("Agg")
        from matplotlib import pyplot

        def log(module: Any) -> None:
            experiment = module.logger.experiment
            assert isinstance(experiment, SummaryWriter)
            figure = pyplot.figure()
            experiment.add_figure("figure", figure, module.global_step)
            experiment.add_image("image", torch.zeros(3, 2, 2), module.global_step)
            experiment.add_histogram("histogram", torch.ones(3), module.global_step)
            experiment.add_text("text", "words", module.global_step)
            experiment.add_scalar("scalar", 2.0, module.global_step)

        train(lightning, log)
        tags = events().Tags()
        assert set(tags["images"]) == {"figure", "image"}
        assert "histogram" in tags["histograms"]
        assert "scalar" in tags["scalars"]
        assert "text/text_summary" in tags["tensors"]

    def test_as_in_wandb(self, lightning: ModuleType, mocker: MockerFixture) -> None:
        spy = mocker.spy(core.DummyTrainContext, "_report_trial_metrics")

        def log(module: Any) -> None:
            module.logger.experiment.log({"a": 1.0, "b": torch.tensor(2), "image": object()})  # here: as in wandb

        with pytest.warns(DifferenceWarning, match="the numbers are recorded, image is lost") as caught:
            train(lightning, log)
        (warning,) = [warning for warning in caught if warning.category is DifferenceWarning]
        assert f"{warning.filename}:{warning.lineno}" == place("as in wandb")
        assert [event.value for event in events().Scalars("b")] == [2.0]
        groups = {call.args[1]: call.args[3] for call in spy.call_args_list}
        assert groups["logger"] == {"a": 1.0, "b": 2.0}

    def test_passes_for_a_tensorboard_logger(self, lightning: ModuleType) -> None:
        answers = []

        def log(module: Any) -> None:
            loggers = lightning.loggers
            answers.extend(
                isinstance(module.logger, kind)
                for kind in (loggers.TensorBoardLogger, loggers.Logger, loggers.WandbLogger, loggers.CSVLogger)
            )

        train(lightning, log)
        assert answers == [True, True, False, False]


@pytest.mark.usefixtures("patched")
class TestMethods:
    def test_log_metrics(self, lightning: ModuleType, mocker: MockerFixture) -> None:
        spy = mocker.spy(core.DummyTrainContext, "_report_trial_metrics")

        def log(module: Any) -> None:
            module.logger.log_metrics({"a": 1, "nested": {"b": torch.tensor([2.0])}})
            module.logger.log_metrics({"a": 3}, step=7)
            module.logger.log_metrics({})

        train(lightning, log)
        reports = [(call.args[2], call.args[3]) for call in spy.call_args_list if call.args[1] == "logger"]
        assert reports == [(2, {"a": 1.0, "nested/b": 2.0}), (7, {"a": 3.0})]
        assert [(event.step, event.value) for event in events().Scalars("a")] == [(2, 1.0), (7, 3.0)]

    def test_log_metrics_of_no_numbers(self, lightning: ModuleType) -> None:
        def log(module: Any) -> None:
            module.logger.log_metrics({"a": "text"})  # here: no numbers

        with pytest.raises(MetricError, match=r"log_metrics got a='text'") as caught:
            train(lightning, log)
        assert str(caught.value).startswith(place("no numbers"))

    @pytest.mark.parametrize("params", [{"lr": 0.1}, argparse.Namespace(lr=0.1)])
    def test_log_hyperparams(self, lightning: ModuleType, params: Any) -> None:
        train(lightning, lambda module: module.logger.log_hyperparams(params, {"score": 4.0}))
        written = events()
        (text,) = written.Tensors("hyperparameters/text_summary")
        assert b"| lr | 0.1 |" in text.tensor_proto.string_val[0]
        assert [event.value for event in written.Scalars("score")] == [4.0]

    def test_log_graph(self, lightning: ModuleType) -> None:
        with warnings.catch_warnings():
            # torch.jit.trace, through which SummaryWriter.add_graph goes.
            warnings.filterwarnings("ignore", "`torch.jit.trace", category=DeprecationWarning)
            train(lightning, lambda module: module.logger.log_graph(module), example_input_array=torch.ones(1, 3))
        assert "layer" in str(events().Graph())

    def test_places(self, lightning: ModuleType) -> None:
        seen = []

        def log(module: Any) -> None:
            logger = module.logger
            logger.save()
            logger.finalize("success")
            seen.append((logger.log_dir, logger.save_dir, logger.root_dir, logger.version, logger.name))
            seen.append(module.trainer.log_dir)

        train(lightning, log)
        theirs = lightning.loggers.TensorBoardLogger(Path.cwd(), version=0)
        expected = (theirs.log_dir, theirs.save_dir, theirs.root_dir, theirs.version, theirs.name)
        assert seen == [(theirs.log_dir, str(Path.cwd()), *expected[2:]), theirs.log_dir]


@pytest.mark.usefixtures("patched")
class TestWhatIsNotThere:
    @pytest.mark.parametrize("row", members("Logger", Support.REFUSED), ids=lambda row: row.name)
    def test_refused(self, lightning: ModuleType, row: Any) -> None:
        with pytest.raises(RefusedMemberError) as caught:
            train(lightning, lambda module: getattr(module.logger, row.name))  # here: refused
        assert str(caught.value) == f"{place('refused')}: logger.{row.name} is refused: {row.sentence}"

    def test_unknown(self, lightning: ModuleType) -> None:
        answers = []
        train(lightning, lambda module: answers.append(hasattr(module.logger, "watch")))
        assert answers == [False]
