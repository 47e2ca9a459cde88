"""A process that dies in the middle of an epoch, really, and another one that goes on from its last checkpoint."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.oracle import assert_same
from tests.resume.conftest import checkpoints
from tests.support import torchrun

pytestmark = pytest.mark.xdist_group("killed")


def run(folder: Path, processes: int, after: int = 0, number: int = 0) -> subprocess.CompletedProcess[str]:
    """Trains in ``folder``, and has each process send itself a signal after some batches."""
    arguments = (str(folder), str(after), str(int(number)))
    return torchrun.run(Path(__file__).parent / "train.py", *arguments, processes=processes)


def results(folder: Path, processes: int) -> list[dict[str, Any]]:
    return [torch.load(folder / f"result.{rank}", weights_only=False) for rank in range(processes)]


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process of a run that nobody interrupts ends with."""
    folder = tmp_path_factory.mktemp("whole")
    finished = run(folder, request.param)
    assert finished.returncode == 0, finished.stderr
    return results(folder, request.param)


@pytest.mark.parametrize(
    ("whole", "number"), [(1, signal.SIGKILL), (1, signal.SIGTERM), (2, signal.SIGKILL)], indirect=["whole"]
)
def test_process_that_is_killed(tmp_path: Path, whole: list[dict[str, Any]], number: signal.Signals) -> None:
    processes = len(whole)
    # Neither the first nor the last of the epoch.
    length = len(whole[0]["batches"])
    after = random.Random(int(number) + processes).randrange(1, length - 1)
    killed = run(tmp_path, processes, after, number)
    assert killed.returncode == (-number if processes == 1 else 1), killed.stderr
    assert max(checkpoints(tmp_path)) == after
    resumed = run(tmp_path, processes)
    assert resumed.returncode == 0, resumed.stderr
    for ours, theirs in zip(results(tmp_path, processes), whole, strict=True):
        ours["batches"] = theirs["batches"][:after] + ours["batches"]
        assert_same(ours, theirs)


ORPHANS = """
import os, signal, time
from lightning_shim.data.workers import InWorkers, iterate_with_workers
from tests.resume.test_loaders import noisy

loader = noisy(num_workers=2, prefetch_factor=8, batch_size=1)
iterator = iterate_with_workers(loader, InWorkers({}, frozenset(), set()), skip=None, before_reset=None)
next(iterator)
time.sleep(2)  # Until the pipe is full.
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_do_not_outlive_their_process() -> None:
    # The workers have its output open.
    environment = {**os.environ, "PYTHONPATH": str(torchrun.REPOSITORY)}
    command = [sys.executable, "-c", ORPHANS]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
