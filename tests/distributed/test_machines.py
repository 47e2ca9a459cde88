"""Two machines that share no disk: both have what ModelCheckpoint keeps, and read a checkpoint of rank 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.oracle import assert_same
from tests.support.torchrun import run_on_machines

pytestmark = pytest.mark.xdist_group("machines")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each machine's process has found."""
    folder = tmp_path_factory.mktemp("machines")
    disks = [folder / "a", folder / "b"]
    for disk in disks:
        disk.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        # What all machines reach: Determined's checkpoints are there.
        patch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder / "storage"))
        for finished in run_on_machines(Path(__file__).with_name("machines.py"), disks, str(folder)):
            assert finished.returncode == 0, finished.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_they_are_two(found: list[dict[str, Any]]) -> None:
    assert [each["machine"] for each in found] == ["0", "1"]
    # Only the first has written that file.
    assert [each["script"]["alone before"] for each in found] == [True, False]


def test_kept_files_are_on_both(found: list[dict[str, Any]]) -> None:
    """And an older one of the same name has been replaced."""
    first, second = (each["script"]["kept"] for each in found)
    assert len(first) == 3
    assert first == second


@pytest.mark.parametrize(("verb", "file"), [("validate", 0), ("test", 1), ("predict", 0)])
def test_evaluation_loads_them(found: list[dict[str, Any]], verb: str, file: int) -> None:
    for each in found:
        assert_same(each["script"][verb], each["script"]["files"][file])


def test_evaluation_loads_what_rank_0_has(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert_same(each["script"]["tested"], found[0]["script"]["module"])


def test_fit_starts_from_what_rank_0_has(found: list[dict[str, Any]]) -> None:
    first, second = (each["script"]["continued"] for each in found)
    # Of 16 samples, two processes have two batches of four each in an epoch.
    assert first["steps"] == second["steps"] == 4 * 2
    assert_same(first, second)


def test_kept_files_outlive_the_machines(found: list[dict[str, Any]]) -> None:
    for each in found:
        assert each["exchanged"] == found[0]["exchanged"]
        assert each["exchanged"][1] == each["exchanged"][2]
