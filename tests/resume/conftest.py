"""Trains, continues from each checkpoint, and compares with what was never interrupted."""

from __future__ import annotations

import copy
import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
from determined import pytorch
from pytest_mock import MockerFixture

from tests.parity.oracle import Case, assert_same, run_determined
from tests.support.recording import Recording


def checkpoints(folder: Path) -> dict[int, Path]:
    """Returns the checkpoints in Determined's local storage by the number of batches trained."""
    return {
        json.loads(file.read_text())["steps_completed"]: file.parent
        for file in folder.glob("determined_checkpoints/*/metadata.json")
    }


def after(recording: Recording, batches: int) -> dict[int, Any]:
    """Returns what was logged after a number of batches."""
    return {step: values for step, values in recording.logged.items() if step >= batches}


class Seen(pl.Callback):
    """Keeps the batches that were trained on, and a count of them in the checkpoint."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.count = 0

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append(copy.deepcopy(batch))
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = state["count"]


@dataclass
class Run:
    """What was seen of a run, and where it ended."""

    recording: Recording
    seen: Seen
    random_states: tuple[Any, Any]


@dataclass
class Resumes:
    """Continues a case from each of its checkpoints."""

    mocker: MockerFixture
    monkeypatch: pytest.MonkeyPatch
    folders: pytest.TempPathFactory

    def run(self, case: Case, folder: Path, **options: Any) -> Run:
        """Runs a case with its checkpoints in a folder."""
        self.monkeypatch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
        seen = Seen()
        own_callbacks = case.callbacks
        case = dataclasses.replace(case, callbacks=lambda: [seen, *own_callbacks()])
        random.seed(case.seed)
        np.random.seed(case.seed)
        recording = run_determined(case, self.mocker, **options)
        # The position of NumPy's generator, and its numbers.
        return Run(recording, seen, (random.getstate(), tuple(map(str, np.random.get_state()))))

    def everywhere(
        self, case: Case, last: int | None = None, every_other_of: int | None = None, **options: Any
    ) -> list[int]:
        """Trains without an interruption, then continues from each checkpoint, under another seed.

        Args:
            case: What to train.
            last: The last checkpoint to continue from, by its number of batches; by default all are.
            every_other_of: The number of batches of an epoch, to leave out what :func:`is_left_out` says.
            **options: Further options of ``fit``.

        Returns:
            The numbers of batches after which there was a checkpoint.
        """
        folder = self.folders.mktemp("uninterrupted")
        whole = self.run(case, folder, checkpoint_period=pytorch.Batch(1), **options)
        written = checkpoints(folder)
        for batches, checkpoint in sorted(written.items()):
            if last is not None and batches > last:
                break
            if every_other_of is not None and is_left_out(batches, every_other_of):
                continue
            # Everything that matters has to come from the checkpoint.
            other = dataclasses.replace(case, seed=100 + batches)
            resumed = self.run(other, self.folders.mktemp("resumed"), latest_checkpoint=checkpoint, **options)
            assert_equal(resumed, whole, batches)
        return sorted(written)


def is_left_out(batches: int, length: int) -> bool:
    """Whether a checkpoint is one of every other; two epochs of a length have each position of an epoch once.

    For what takes long to start, as data workers do.
    """
    epoch, position = divmod(batches - 1, length)
    return (epoch + position) % 2 == 1


def assert_equal(resumed: Run, whole: Run, batches: int) -> None:
    """Compares a run that was continued after some batches with one that was not interrupted."""
    trained = len(whole.seen.batches) - len(resumed.seen.batches)
    assert_same(resumed.seen.batches, whole.seen.batches[trained:], f"batches after {batches}")
    assert resumed.seen.count == whole.seen.count
    ours, theirs = resumed.recording, whole.recording
    for name in ("weights", "optimizers", "schedulers", "random_state", "callback_metrics", "callback_states"):
        assert_same(getattr(ours, name), getattr(theirs, name), f"{name} after {batches}")
    assert resumed.random_states == whole.random_states, f"random states after {batches}"
    assert (ours.global_step, ours.current_epoch) == (theirs.global_step, theirs.current_epoch)
    assert_same(after(ours, batches), after(theirs, batches), f"logged after {batches}")


@pytest.fixture
def resumes(
    mocker: MockerFixture, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Resumes:
    """Continues cases from each of their checkpoints."""
    return Resumes(mocker, monkeypatch, tmp_path_factory)
