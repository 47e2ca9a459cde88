"""What a trained module exports: ``to_torchscript`` and ``to_onnx`` give what they give after ``pl.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import pytest
import torch
from pytest_mock import MockerFixture
from torch import Tensor

from tests.parity.modules import Regression, loaders
from tests.parity.oracle import Case, assert_equal, assert_same, run_determined, run_lightning
from tests.parity.runs import keeping


class HasAnExample(Regression):
    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = torch.zeros(2, 5)


class TransfersTheExample(HasAnExample):
    """Its example goes through the hooks that every batch goes through."""

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if isinstance(batch, Tensor):
            assert not self.trainer.training
            return batch[:, :3]
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return torch.cat([batch, batch[:, :2]], dim=1) if isinstance(batch, Tensor) else batch


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
