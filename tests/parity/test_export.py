"""What a module exports: ``to_torchscript``, ``to_onnx`` and ``log_graph`` give what they give with ``pl.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.graph_pb2 import GraphDef
from torch import Tensor

import lightning_shim
from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning
from tests.parity.runs import keeping
from tests.support.lightning_trainer import fit_by_lightning


class HasAnExample(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 5)


class TransfersTheExample(HasAnExample):
    """Its example goes through the hooks that every batch goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(4, 5)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[:-1] if isinstance(batch, Tensor) else batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[:-1] + 1 if isinstance(batch, Tensor) else batch


MODULES = [HasAnExample, TransfersTheExample]
INPUTS = torch.randn(2, 5, generator=torch.Generator().manual_seed(8))


def trained(mocker: MockerFixture, module: type) -> list[Any]:
    """Trains on both sides; returns Lightning's module, then Determined's."""
    made: list[Any] = []
    case = Case(keeping(module, made), loaders, max_epochs=1, every_hook=False)
    assert_equal(run_lightning(case), run_determined(case, mocker))
    return made


# PyTorch deprecates TorchScript, and Lightning its export to it.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*to_torchscript.*deprecated")
@pytest.mark.parametrize("method", ["script", "trace"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_torchscript(mocker: MockerFixture, tmp_path: Path, module: type, method: str) -> None:
    outputs, states = [], []
    for made in trained(mocker, module):
        exported = made.to_torchscript(tmp_path / "module.pt", method=method)
        assert made.training
        outputs.append([exported(INPUTS), torch.jit.load(tmp_path / "module.pt")(INPUTS)])
        states.append(dict(exported.state_dict()))
    assert_same(outputs[1], outputs[0])
    assert_same(states[1], states[0])


# The exporter that PyTorch is giving up, and what it calls.
@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript-based ONNX export:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed. Please remove usage:DeprecationWarning")
@pytest.mark.torch(">=2.5")  # Lightning's to_onnx passes both on, and PyTorch knows neither before.
@pytest.mark.parametrize("dynamo", [False, True], ids=["by trace", "by torch.export"])
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_onnx(mocker: MockerFixture, tmp_path: Path, module: type, dynamo: bool) -> None:
    graphs, outputs = [], []
    for made in trained(mocker, module):
        made.eval()
        made.to_onnx(tmp_path / "module.onnx", dynamo=dynamo, external_data=False)
        assert not made.training
        graph = onnx.load(tmp_path / "module.onnx")
        onnx.checker.check_model(graph, full_check=True)
        graphs.append(initializers(graph))
        (output,) = onnx.reference.ReferenceEvaluator(graph).run(None, {graph.graph.input[0].name: INPUTS.numpy()})
        outputs.append(output)
        np.testing.assert_allclose(output, made(INPUTS).detach().numpy(), rtol=1e-5)
    assert np.array_equal(outputs[1], outputs[0])
    assert len(graphs[0]) >= 4
    assert graphs[1] == graphs[0]


def initializers(model: onnx.ModelProto) -> dict[str, bytes]:
    """Returns the bytes of a graph's weights."""
    return {entry.name: onnx.numpy_helper.to_array(entry).tobytes() for entry in model.graph.initializer}


class LogsGraph(TransfersTheExample):
    def on_train_start(self) -> None:
        self.logger.log_graph(self)


class AllowsGraphs(pl.Callback):
    """Lightning's logger would otherwise write one of its own accord as well, before training starts."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.logger._log_graph = True


def graph_written_to(folder: Path) -> Any:
    """Reads the graph that a run has written for TensorBoard last."""
    (file,) = folder.rglob("events.out.tfevents.*")
    (*_, graph) = (event.graph_def for event in EventFileLoader(str(file)).Load() if event.graph_def)
    return GraphDef.FromString(graph)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_graph_for_tensorboard(tmp_path: Path) -> None:
    """It is traced by a forward pass, which draws random numbers and moves the statistics of BatchNorm."""
    pl.seed_everything(7)
    theirs = LogsGraph()
    logger = TensorBoardLogger(tmp_path / "lightning")
    fit_by_lightning(
        pl, theirs, **loaders(), max_epochs=1, logger=logger, callbacks=AllowsGraphs(), log_every_n_steps=1
    )
    pl.seed_everything(7)
    with lightning_shim.patched():
        ours = LogsGraph()
        trial = lightning_shim.fit(ours, **loaders(), max_length=pytorch.Epoch(1))
    assert graph_written_to(Path(trial.trainer.log_dir)) == graph_written_to(tmp_path / "lightning")
    assert_same(ours.state_dict(), theirs.state_dict())
