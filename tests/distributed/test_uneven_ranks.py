"""Processes that have different numbers of batches: refused, or cut to the shortest; never left waiting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.oracle import assert_same
from tests.support.torchrun import run

pytestmark = pytest.mark.xdist_group("two processes")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    file = tmp_path_factory.mktemp("uneven") / "found"
    finished = run(Path(__file__).with_name("uneven.py"), str(file), time_limit=120)
    assert finished.returncode == 0, finished.stderr
    return [torch.load(f"{file}.{rank}") for rank in range(2)]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("refused", "5 on rank 0, 3 on rank 1"), ("without a length", "5 on rank 0, no length on rank 1")],
)
def test_difference_is_refused_on_all_ranks(found: list[dict[str, Any]], name: str, lengths: str) -> None:
    for of_rank in found:
        assert f"train_dataloaders gave different numbers of batches: {lengths}." in of_rank[name]
        assert "uneven.py:" in of_rank[name]
        assert "cut_to_shortest_rank=True" in of_rank[name]


@pytest.mark.parametrize("name", ["cut", "agreed", "partly agreed"])
def test_epoch_ends_with_the_shortest(found: list[dict[str, Any]], name: str) -> None:
    for of_rank in found:
        assert of_rank[name]["ends"] == [(0, 3), (1, 6)]
        # As under Lightning's Trainer, where no rank has more batches.
        assert_same(of_rank[name], of_rank["expected"])
