"""A checkpoint of one process is continued by two, and the reverse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.other_size import BATCH_SIZE, EPOCHS, KINDS, SAMPLES
from tests.parity.oracle import assert_same
from tests.resume.conftest import checkpoints
from tests.support.torchrun import run

pytestmark = pytest.mark.xdist_group("other number of processes")

SCRIPT = Path(__file__).with_name("other_size.py")
LENGTHS = {1: 5, 2: 3}
"""The batches of an epoch, by the number of processes."""


@pytest.fixture(scope="module", params=[(1, 2), (2, 1)], ids=["one to two", "two to one"])
def sizes(request: pytest.FixtureRequest) -> tuple[int, int]:
    before, after = request.param
    return before, after


@pytest.fixture(scope="module", params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(sizes: tuple[int, int], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both trainings of each kind have written."""
    folder = tmp_path_factory.mktemp("other_size")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        for processes in sizes:
            finished = run(SCRIPT, str(folder), processes=processes)
            assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture(scope="module")
def folder(kind: str, trained: Path) -> Path:
    """What both trainings have written."""
    return trained / kind


@pytest.fixture(scope="module")
def ended(folder: Path, sizes: tuple[int, int]) -> list[dict[int, dict[str, Any]]]:
    """How each process ended, by the batches before the checkpoint."""
    return [torch.load(folder / f"ended.{rank}", weights_only=False) for rank in range(sizes[1])]


def trained_when_written(kind: str, size: int) -> int:
    """Returns how many batches the training that writes the checkpoints has."""
    return EPOCHS * LENGTHS[size] if kind == "epochs" else KINDS[kind]["max_length"].value


def batches_to_come(kind: str, batches: int, before: int, after: int) -> list[tuple[int, int]]:
    """Returns epoch and index of each batch that follows a checkpoint, by the batches of an epoch before and after."""
    epoch, done = divmod(batches, before)
    if kind == "epochs":
        # The same part of the epoch.
        done = done * after // before
        end = EPOCHS * after
    else:
        # As many batches, if the epoch has so many.
        done = min(done, after)
        end = epoch * after + done + KINDS[kind]["max_length"].value - batches
    return [divmod(index, after) for index in range(epoch * after + done, end)]


def test_every_checkpoint_was_continued(
    ended: list[dict[int, dict[str, Any]]], kind: str, sizes: tuple[int, int]
) -> None:
    for of_rank in ended:
        assert sorted(of_rank) == list(range(1, trained_when_written(kind, sizes[0]) + 1))


def test_state_is_that_of_the_checkpoint(folder: Path, ended: list[dict[int, dict[str, Any]]]) -> None:
    written = checkpoints(folder)
    for of_rank in ended:
        for batches, run_on in of_rank.items():
            if run_on["batches"]:
                saved = torch.load(written[batches] / "state_dict.pth", weights_only=False)
                assert_same(run_on["at_start"], {name: saved[name] for name in run_on["at_start"]})
                assert saved["global_step"] == batches


def test_training_goes_on_where_it_was(
    ended: list[dict[int, dict[str, Any]]], kind: str, sizes: tuple[int, int]
) -> None:
    before, after = (LENGTHS[size] for size in sizes)
    for of_rank in ended:
        for batches, run_on in of_rank.items():
            expected = batches_to_come(kind, batches, before, after)
            assert [entry[:2] for entry in run_on["batches"]] == expected, batches
            assert run_on["global_step"] == batches + len(expected)
            assert run_on["batches_trained"] == trained_when_written(kind, sizes[1])
            if kind == "epochs":
                assert run_on["epoch"] == EPOCHS
                assert expected == [] or run_on["metrics"]["val_loss"] > 0


def test_module_has_what_rank_zero_has_kept(ended: list[dict[int, dict[str, Any]]]) -> None:
    for rank, of_rank in enumerate(ended):
        for batches, run_on in of_rank.items():
            assert run_on["ranks"] == [0] * batches + [rank] * len(run_on["batches"])


def test_order_is_that_of_the_epoch(ended: list[dict[int, dict[str, Any]]], sizes: tuple[int, int]) -> None:
    after = LENGTHS[sizes[1]]
    for batches in ended[0]:
        by_epoch: dict[int, list[list[int]]] = {}
        for of_rank in ended:
            for epoch, _, samples in of_rank[batches]["batches"]:
                by_epoch.setdefault(epoch, []).append(samples)
        for parts in by_epoch.values():
            samples = [sample for part in parts for sample in part]
            # None comes twice, and a whole epoch has all.
            assert len(set(samples)) == len(samples)
            if len(parts) == after * sizes[1]:
                assert sorted(samples) == list(range(SAMPLES))
            else:
                assert len(samples) >= (len(parts) - sizes[1]) * BATCH_SIZE


def test_processes_agree(ended: list[dict[int, dict[str, Any]]]) -> None:
    for batches, run_on in ended[0].items():
        for of_rank in ended[1:]:
            assert_same(of_rank[batches]["weights"], run_on["weights"])


def test_a_warning_says_so(ended: list[dict[int, dict[str, Any]]], kind: str, sizes: tuple[int, int]) -> None:
    before, after = sizes
    for rank, of_rank in enumerate(ended):
        for batches, run_on in of_rank.items():
            assert len(run_on["warnings"]) == (rank == 0), batches
    said = ended[0][2]["warnings"][0]
    assert f"was written by {before} processes or slots, and is continued with {after}" in said
    done, length = 2, "an unknown number of"
    if kind == "epochs":
        done, length = 2 * LENGTHS[after] // LENGTHS[before], str(LENGTHS[after])
    assert f"epoch 0 goes on after {done} of {length} batches of each process" in said
