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
DIES = Path(__file__).parents[1] / "distributed" / "dies.py"

CPU, CHIEFS = torch.device("cpu"), torch.device("cuda", 0)

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


def tensors_in(content: Any) -> list[Tensor]:
    found: list[Tensor] = []
    apply_to_collection(content, Tensor, found.append)
    return found


def test_contexts_and_storages_of_a_checkpoint(tmp_path: Path) -> None:
    finished = trained("determined", tmp_path, {})
    # Without a map_location, so that each tensor is where its process has sent it from.
    content = torch.load(Path(finished["checkpoint"]) / "state_dict.pth", weights_only=False)
    processes = content[STATE_KEY]["processes"]
    assert len(processes) == 2
    assert {tensor.device for tensor in tensors_in(processes)} == {CPU}
    assert {tensor.device for tensor in tensors_in(content)} == {CPU, CHIEFS}
    # Determined's names of the weights and Lightning's share them.
    weights, of_determined = content["state_dict"], content["models_state_dict"][0]
    assert {name: value.data_ptr() for name, value in weights.items()} == {
        name: value.data_ptr() for name, value in of_determined.items()
    }
    # Neither process has used the other one's GPU, as it would to rebuild a tensor of it.
    contexts = [json.loads(Path(f"{tmp_path / 'determined.pt'}.{rank}").read_text()) for rank in range(2)]
    assert [used[:2] for used in contexts] == [[True, False], [False, True]]


@pytest.mark.parametrize(
    ("how", "rank", "said"),
    [
        ("raise", 1, "ValueError: the batch is bad"),
        ("os._exit 0", 0, "lightning_shim: rank 0 has ended before the trial"),
        ("os._exit 0", 1, "lightning_shim: rank 1 has ended before the trial"),
    ],
    ids=str,
)
def test_rank_that_dies(how: str, rank: int, said: str) -> None:
    """The other one waits for it in NCCL, and ends as well."""
    finished = run(DIES, how, str(rank), time_limit=180)
    assert finished.returncode == 1, finished.stderr
    assert said in finished.stderr
    assert "trained to the end" not in finished.stdout
