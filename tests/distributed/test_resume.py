"""Two processes that share a loader go on after any batch with the samples that each would have trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.resume import LOADERS
from tests.parity.oracle import assert_same
from tests.support.torchrun import run

pytestmark = pytest.mark.xdist_group("resume on two processes")


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[int, dict[str, Any]]]]:
    """What each process's trainings ended with, by loader and by the batches before the checkpoint."""
    folder = tmp_path_factory.mktemp("resume")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        finished = run(Path(__file__).with_name("resume.py"), str(folder / "ended"))
    assert finished.returncode == 0, finished.stderr
    return [torch.load(folder / f"ended.{rank}", weights_only=False) for rank in range(2)]


@pytest.mark.parametrize("name", LOADERS)
def test_every_checkpoint(ended: list[dict[str, dict[int, dict[str, Any]]]], name: str) -> None:
    for of_rank in ended:
        trained = of_rank[name]
        whole = trained[0]
        assert sorted(trained) == list(range(len(whole["batches"]) + 1))
        for batches, resumed in trained.items():
            expected = {**whole, "batches": whole["batches"][batches:]}
            assert_same(resumed, expected, f"after {batches}")
    first, second = (of_rank[name][0] for of_rank in ended)
    assert_same(first["weights"], second["weights"])
    # The last entry of a batch says which samples it has.
    assert all(
        ours[-1].tolist() != theirs[-1].tolist()
        for ours, theirs in zip(first["batches"], second["batches"], strict=True)
    )
