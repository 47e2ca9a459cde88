"""Two processes on one machine, started by torchrun: the weights of Lightning's DDP, the same on both."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.oracle import assert_same

REPOSITORY = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run(side: str, file: Path) -> list[dict[str, Any]]:
    """Trains on two processes and returns what each of them ended with, by rank."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        # Determined's processes talk to each other through these, and two trainings on one machine would collide.
        "INTER_TRAIN_PROCESS_COMM_PORT_1": str(free_port()),
        "INTER_TRAIN_PROCESS_COMM_PORT_2": str(free_port()),
    }
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    command = [sys.executable, *launcher, str(Path(__file__).parent / "train.py"), side, str(file)]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert finished.returncode == 0, finished.stderr
    return [torch.load(f"{file}.{rank}") for rank in range(2)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two_processes")
    return {side: run(side, folder / side) for side in ("determined", "lightning")}


def test_weights(results: dict[str, list[dict[str, Any]]]) -> None:
    for rank in range(2):
        assert_same(results["determined"][rank]["weights"], results["lightning"][rank]["weights"])
        assert results["determined"][rank]["global_step"] == results["lightning"][rank]["global_step"]
    parameters = [name for name in results["determined"][0]["weights"] if "running" not in name]
    for name in parameters:
        assert torch.equal(*(results["determined"][rank]["weights"][name] for rank in range(2)))


def test_one_process_stops_both(tmp_path: Path) -> None:
    stopped = run("stopping", tmp_path / "stopping")
    # After the report that follows the step at which it was asked for.
    assert [result["global_step"] for result in stopped] == [2, 2]


def test_training_metrics(results: dict[str, list[dict[str, Any]]]) -> None:
    for rank in range(2):
        ours, theirs = (results[side][rank]["metrics"] for side in ("determined", "lightning"))
        names = [name for name in theirs if not name.startswith("val_")]
        assert_same({name: ours[name] for name in names}, {name: theirs[name] for name in names})


def test_validation_metrics_are_of_all_processes(results: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("val_loss", "val_batch"):
        ours = [results["determined"][rank]["metrics"][name] for rank in range(2)]
        theirs = [results["lightning"][rank]["metrics"][name] for rank in range(2)]
        # Both have five samples. Lightning leaves each process its own value unless sync_dist is set.
        assert ours[0] == ours[1] == pytest.approx(sum(theirs) / 2)
