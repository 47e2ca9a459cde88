"""Training on two GPUs of one machine with NCCL, compared with Lightning's DDP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_shim.checkpoint.trial_state import STATE_KEY
from tests.support.torchrun import run

SCRIPT = Path(__file__).with_name("train.py")

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="PyTorch sees one GPU at most")


def trained(who: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    file = folder / f"{who}.pt"
    finished = run(SCRIPT, who, str(file), json.dumps(options))
    assert finished.returncode == 0, finished.stderr
    content: dict[str, Any] = torch.load(file, weights_only=False)
    return content


@pytest.mark.parametrize(
    "options",
    [{}, {"accumulate_grad_batches": 2}, {"sync_batchnorm": True}],
    ids=["plain", "no_sync", "sync_batchnorm"],
)
def test_weights_and_numbers(tmp_path: Path, options: dict[str, Any]) -> None:
    lightning, determined = (trained(who, tmp_path, options) for who in ("lightning", "determined"))
    torch.testing.assert_close(determined["weights"], lightning["weights"], rtol=0, atol=0)
    assert determined["seen"] == lightning["seen"]


def test_chief_has_no_tensors_of_the_other_gpu(tmp_path: Path) -> None:
    checkpoint = Path(trained("determined", tmp_path, {})["checkpoint"])
    # Without a map_location, so that each tensor is where its process has sent it from.
    state = torch.load(checkpoint / "state_dict.pth", weights_only=False)[STATE_KEY]
    tensors: list[Tensor] = []
    apply_to_collection(state["processes"], Tensor, tensors.append)
    assert len(state["processes"]) == 2
    assert {tensor.device for tensor in tensors} == {torch.device("cpu")}
