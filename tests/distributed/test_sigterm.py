"""Two processes of a script that get SIGTERM end in order, after the same batch, as one does under Lightning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from tests.distributed.sigterm import train
from tests.parity.oracle import assert_same
from tests.support.torchrun import run

pytestmark = pytest.mark.xdist_group("two processes")


def saved() -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load("on_exception.ckpt", weights_only=False)
    return checkpoint


def test_both_end_after_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    finished = run(Path(__file__).with_name("sigterm.py"), time_limit=90)
    # They agree where they report.
    for rank in range(2):
        assert f"rank {rank}: SIGTERMException after 4" in finished.stdout
    assert "trained to the end" not in finished.stdout
    ours = saved()
    with pytest.raises(SIGTERMException) as ended:
        train(kills_after=4, samples=6)
    assert finished.returncode == (ended.value.code or 0), finished.stderr
    for name in ("global_step", "epoch", "loops"):
        assert_same(ours[name], saved()[name], name)
