"""A trial of a module of Lightning 1.x that is killed after any of its checkpoints ends as if nothing had happened."""

from __future__ import annotations

from typing import Any

import pytest
from determined import pytorch
from pytest_mock import MockerFixture

from tests.lightning1.modules import MODULES
from tests.lightning1.test_modules import run
from tests.parity.oracle import assert_same
from tests.resume.conftest import checkpoints


# PyTorch counts an optimizer's steps in the process, and one of them skips its first step after continuing.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step\\(\\)` before `optimizer.step\\(\\)`")
# A module with optimizers in turn skips one of them so.
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("name", MODULES)
def test_every_checkpoint(
    mocker: MockerFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
) -> None:
    folder = tmp_path_factory.mktemp("uninterrupted")
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
    options: dict[str, Any] = {"checkpoint_policy": "all", "max_length": pytorch.Epoch(2)}
    whole = run(MODULES[name], mocker, checkpoint_period=pytorch.Batch(1), **options)
    written = checkpoints(folder)
    assert sorted(written) == list(range(1, 9))
    monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(tmp_path_factory.mktemp("resumed")))
    for batches, checkpoint in sorted(written.items()):
        resumed = run(MODULES[name], mocker, seed=100 + batches, latest_checkpoint=checkpoint, **options)
        assert_same(resumed.weights, whole.weights, f"weights after {batches}")
        assert_same(resumed.optimizers, whole.optimizers, f"optimizers after {batches}")
        assert_same(resumed.random_state, whole.random_state, f"random state after {batches}")
        assert resumed.global_step == whole.global_step
        assert_same(resumed.callback_metrics, whole.callback_metrics, f"metrics after {batches}")
        for step, values in resumed.logged.items():
            if step >= batches:
                assert_same(sorted(values), sorted(whole.logged[step]), f"logged after {batches}")
