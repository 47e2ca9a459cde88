"""What breaks while a trial runs ends it in time, with one error, and leaves the last checkpoint as good as it was."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import pickle
import resource
import signal
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytest_mock import MockerFixture
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

import lightning_shim
from lightning_shim import CheckpointError
from lightning_shim.trial.determined_callback import LightningCallback
from tests.parity.modules import Regression, dataset
from tests.parity.oracle import Case, assert_equal, run_determined, run_lightning
from tests.resume.conftest import checkpoints
from tests.support.places import place_in

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))

TIME_LIMIT = 30
"""In seconds. None of the trainings takes as many as five."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fails a test that waits for what never comes."""

    def give_up(*_: Any) -> None:
        raise AssertionError(f"it has not ended after {TIME_LIMIT} seconds")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIME_LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


class Samples(Dataset[Any]):
    """Of 22 samples one breaks: in the sixth batch, of six."""

    def __init__(self, breaks: Callable[[], Any] | None) -> None:
        self.samples = dataset()
        self.breaks = breaks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        if index == 21 and self.breaks is not None:
            self.breaks()
        return self.samples[index]


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("it cannot be handed over")  # here: pickled


class EndsWhenPickled:
    def __reduce__(self) -> Any:
        os._exit(3)


def with_tail(tail: Any, samples: list[Any]) -> Any:
    """Makes a batch to which something is added if it is the last one."""
    batch = torch.utils.data.default_collate(samples)
    return [*batch, tail] if len(samples) < 4 else batch


def bad_sample() -> None:
    raise ValueError("the sample is bad")  # here: sample


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(module: Any = Regression, train_loader: Any = None, epochs: int = 1, **options: Any) -> Any:
    return lightning_shim.fit(
        module,
        DataLoader(dataset(), batch_size=4) if train_loader is None else train_loader,
        DataLoader(dataset(8, seed=4), batch_size=4),
        max_length=pytorch.Epoch(epochs),
        seed=0,
        **{"checkpoint_period": pytorch.Batch(2), "checkpoint_policy": "none", **options},
    )


def folder() -> Path:
    return Path.cwd()


def contents(checkpoint: Path) -> dict[str, bytes]:
    return {str(file.relative_to(checkpoint)): file.read_bytes() for file in checkpoint.rglob("*") if file.is_file()}


def assert_last_is_good(batches: int, whole: dict[str, Tensor], **options: Any) -> None:
    """Goes on from the last checkpoint that there is, to where a training that nothing has disturbed ends."""
    written = checkpoints(folder())
    assert max(written) == batches
    resumed = train(latest_checkpoint=written[batches], **options)
    assert resumed.trainer.global_step == 6
    for name, value in resumed.module.state_dict().items():
        assert torch.equal(value, whole[name]), name


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights after a training that nothing disturbs."""
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(tmp_path_factory.mktemp("undisturbed")))
        weights: dict[str, Tensor] = train().module.state_dict()
    return weights


@pytest.fixture(autouse=True)
def _ends_data_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends the data workers that an error has left: if the garbage collector does, each takes PyTorch five seconds."""
    started: weakref.WeakSet[Any] = weakref.WeakSet()
    start = _MultiProcessingDataLoaderIter.__init__

    def start_and_remember(self: Any, loader: Any) -> None:
        started.add(self)
        start(self, loader)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "__init__", start_and_remember)
    yield
    for iterator in started:
        iterator._shutdown_workers()


class TestWorker:
    @pytest.mark.parametrize("persistent_workers", [False, True])
    @pytest.mark.parametrize("breaks", [functools.partial(os._exit, 3), is_killed], ids=["os._exit", "SIGKILL"])
    def test_dies_in_the_dataset(
        self, whole: dict[str, Tensor], breaks: Callable[[], Any], persistent_workers: bool
    ) -> None:
        options: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "persistent_workers": persistent_workers}
        with bounded(), pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*\) (exited|is killed)"):
            # It may be noticed while another batch is trained.
            train(train_loader=DataLoader(Samples(breaks), prefetch_factor=1, **options))
        assert_last_is_good(max(checkpoints(folder())), whole, train_loader=DataLoader(Samples(None), **options))

    def test_dies_while_it_hands_over_a_batch(self, whole: dict[str, Tensor]) -> None:
        collate = functools.partial(with_tail, EndsWhenPickled())
        options: dict[str, Any] = {"batch_size": 4, "num_workers": 2, "prefetch_factor": 1}
        with bounded(), pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*\) exited"):
            train(train_loader=DataLoader(Samples(None), collate_fn=collate, **options))
        assert_last_is_good(max(checkpoints(folder())), whole, train_loader=DataLoader(Samples(None), **options))

    def test_is_killed_in_the_middle_of_a_message(self) -> None:
        """It holds the lock of the pipe, in which a part of a batch is left."""

        class KillsWorkers(Regression):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                time.sleep(1)  # Until the pipe is full.
                for worker in torch.multiprocessing.active_children():
                    if isinstance(worker, torch.multiprocessing.Process) and worker.pid is not None:
                        os.kill(worker.pid, signal.SIGKILL)
                return self.loss(batch[:2])

        def large(samples: list[Any]) -> Any:
            return [*torch.utils.data.default_collate(samples), np.zeros(10_000_000)]

        with bounded(), pytest.raises(RuntimeError, match=r"DataLoader worker \(pid.*\) (exited|is killed)"):
            train(KillsWorkers, DataLoader(dataset(), batch_size=4, num_workers=2, collate_fn=large))

    def test_cannot_hand_over_a_batch(self, whole: dict[str, Tensor]) -> None:
        """Python would print that, and wait for ever, also under Lightning."""
        options: dict[str, Any] = {"batch_size": 4, "num_workers": 2}
        collate = functools.partial(with_tail, Unpicklable())
        with bounded(), pytest.raises(ValueError, match="Caught ValueError in a DataLoader worker process") as caught:
            train(train_loader=DataLoader(Samples(None), collate_fn=collate, **options))
        file, _, line = place("pickled").rpartition(":")
        assert f'"{file}", line {line}' in str(caught.value)
        assert "it cannot be handed over" in str(caught.value)
        assert_last_is_good(4, whole, train_loader=DataLoader(Samples(None), **options))


class TestBatch:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_cannot_be_made(self, whole: dict[str, Tensor], num_workers: int) -> None:
        options: dict[str, Any] = {"batch_size": 4, "num_workers": num_workers}
        with bounded(), pytest.raises(ValueError, match="the sample is bad") as caught:
            train(train_loader=DataLoader(Samples(bad_sample), **options))
        file, _, line = place("sample").rpartition(":")
        # A worker's traceback is in the message.
        shown = "".join(traceback.format_exception(caught.value))
        assert f'"{file}", line {line}' in shown
        assert "During handling" not in shown
        assert_last_is_good(4, whole, train_loader=DataLoader(Samples(None), **options))

    def test_cannot_be_trained_on(self, whole: dict[str, Tensor]) -> None:
        class Breaks(Regression):
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                if batch_idx == 5:
                    raise ValueError("the batch is bad")
                return super().training_step(batch, batch_idx)

        with bounded(), pytest.raises(ValueError, match="the batch is bad"):
            train(Breaks)
        assert_last_is_good(4, whole)

    def test_cannot_be_validated_on(self, whole: dict[str, Tensor]) -> None:
        class Breaks(Regression):
            def validation_step(self, batch: Any, batch_idx: int) -> Any:
                if self.trainer.sanity_checking:
                    return super().validation_step(batch, batch_idx)
                raise ValueError("the batch is bad")

        with bounded(), pytest.raises(ValueError, match="the batch is bad"):
            train(Breaks, validation_period=pytorch.Batch(5))
        assert_last_is_good(4, whole)


class Restricts(pl.Callback):
    """Has the system refuse to write long files while a checkpoint is written: as a full disk does, in the middle."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.restricted: list[int] = []

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        if trainer.global_step >= 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))
            self.restricted.append(trainer.global_step)


@pytest.fixture
def disk() -> Iterator[None]:
    """Lifts the restriction after a test."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("disk")
class TestDisk:
    def refuse(self, module: Any = Regression, **options: Any) -> CheckpointError:
        with bounded(), pytest.raises(CheckpointError) as caught:
            train(module, **options)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return caught.value

    @pytest.mark.parametrize("limit", [4096, 30_000])
    def test_fills_while_a_checkpoint_is_written(self, whole: dict[str, Tensor], limit: int) -> None:
        restricts = Restricts(limit)
        error = self.refuse(callbacks=[restricts])
        assert restricts.restricted == [4]
        written = checkpoints(folder())
        assert list(written) == [2]
        assert str(error).startswith("the checkpoint after 4 batches could not be written (RuntimeError")
        assert str(error).endswith(f"continue from there with latest_checkpoint: {written[2]}.")
        assert isinstance(error.__cause__, RuntimeError)
        # Nothing is left of what could not be written.
        assert list((folder() / "determined_checkpoints").iterdir()) == [written[2]]
        assert_last_is_good(2, whole)

    def test_fills_before_the_last_file(self, whole: dict[str, Tensor], mocker: MockerFixture) -> None:
        train(epochs=1, checkpoint_period=pytorch.Batch(4))
        before = {path: contents(path) for path in checkpoints(folder()).values()}
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        mocker.patch.object(pickle, "dump", side_effect=full)
        error = self.refuse(latest_checkpoint=checkpoints(folder())[4])
        mocker.stopall()
        assert "No space left on device" in str(error)
        assert "after 6 batches" in str(error)
        assert str(checkpoints(folder())[4]) in str(error)
        assert error.__cause__ is full
        assert {path: contents(path) for path in checkpoints(folder()).values()} == before
        assert_last_is_good(6, whole)

    def test_is_full_from_the_start(self) -> None:
        class Full(Restricts):
            def on_save_checkpoint(self, *args: Any) -> None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.RLIM_INFINITY))

        error = self.refuse(callbacks=[Full(4096)])
        assert str(error).endswith("There is none before it.")
        assert not checkpoints(folder())

    def test_errors_of_hooks_are_their_own(self) -> None:
        class Breaks(Regression):
            def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                raise RuntimeError("not the disk")

        class Misses(Regression):
            def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                Path("missing").read_bytes()

        with pytest.raises(RuntimeError, match="not the disk"):
            train(Breaks)
        with pytest.raises(FileNotFoundError):
            train(Misses)
        assert not list((folder() / "determined_checkpoints").iterdir())


class TestInterruption:
    """By a signal's handler, which may raise at any time: Ctrl+C, or PyTorch's for a data worker that has died."""

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("DataLoader worker (pid 1) is killed")])
    def test_while_the_last_file_is_written(
        self, whole: dict[str, Tensor], mocker: MockerFixture, error: BaseException
    ) -> None:
        dump = json.dump

        def interrupted(contents: Any, stream: Any, **options: Any) -> None:
            if contents.get("steps_completed") == 4:
                stream.write('{"steps_completed": ')
                raise error
            dump(contents, stream, **options)

        mocker.patch.object(json, "dump", interrupted)
        with bounded(), pytest.raises(type(error)) as caught:
            train()
        mocker.stopall()
        assert caught.value is error
        written = checkpoints(folder())
        assert list((folder() / "determined_checkpoints").iterdir()) == list(written.values())
        assert_last_is_good(2, whole)

    def test_after_the_last_file_leaves_the_checkpoint(self, whole: dict[str, Tensor], mocker: MockerFixture) -> None:
        mocker.patch.object(LightningCallback, "on_checkpoint_upload_end", side_effect=KeyboardInterrupt)
        with bounded(), pytest.raises(KeyboardInterrupt):
            train()
        mocker.stopall()
        assert_last_is_good(2, whole)


class TestCheckpointOfAnother:
    """Beside what ``tests/checkpoint`` has of files that are missing, cut short or something else."""

    class Larger(Regression):
        def __init__(self) -> None:
            super().__init__()
            self.more = torch.nn.Linear(2, 2)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.layers.parameters(), lr=0.01)

    def refuse(self, module: Any, checkpoint: Path) -> str:
        before = contents(checkpoint)
        with pytest.raises(CheckpointError) as caught:
            train(module, latest_checkpoint=checkpoint)
        assert contents(checkpoint) == before
        return str(caught.value)

    def test_unexpected_and_missing_keys(self) -> None:
        larger, smaller = train(self.Larger).checkpoint_path, train().checkpoint_path
        unexpected, missing = self.refuse(Regression, larger), self.refuse(self.Larger, smaller)
        assert f"the checkpoint {larger} does not fit this module" in unexpected
        assert 'Unexpected key(s) in state_dict: "more.weight", "more.bias"' in unexpected
        assert 'Missing key(s) in state_dict: "more.weight", "more.bias"' in missing

    @pytest.mark.parametrize(("first", "second"), [(Larger, Regression), (Regression, Larger)])
    def test_strict_loading(self, first: Any, second: Any) -> None:
        class Lenient(second):  # type: ignore[misc]
            strict_loading = False

        whole = train(first).module.state_dict()
        resumed = train(Lenient, latest_checkpoint=checkpoints(folder())[4])
        assert resumed.trainer.global_step == 6
        for name, value in resumed.module.state_dict().items():
            assert name.startswith("more.") or torch.equal(value, whole[name])

    def test_of_a_hand_written_trial(self) -> None:
        """It has the weights, and not where in the epoch it is."""
        train()
        checkpoint = checkpoints(folder())[4]
        file = checkpoint / "state_dict.pth"
        saved = torch.load(file, weights_only=False)
        of_determined = (
            "models_state_dict",
            "optimizers_state_dict",
            "lr_schedulers_state_dict",
            "callbacks",
            "rng_state",
        )
        torch.save({name: saved[name] for name in of_determined}, file)
        message = self.refuse(Regression, checkpoint)
        assert f"the checkpoint {checkpoint} was not written by a LightningTrial" in message
        assert "resume from another one" in message

    @pytest.mark.parametrize("name", ["state_dict.pth", "trial_state.pkl"])
    def test_file_is_garbled(self, name: str, whole: dict[str, Tensor]) -> None:
        train()
        written = checkpoints(folder())
        (written[6] / name).write_bytes(os.urandom(5000))
        assert f"{written[6] / name} is damaged or cut short" in self.refuse(Regression, written[6])
        # The one before it is as good as ever.
        resumed = train(latest_checkpoint=written[4])
        assert all(torch.equal(value, whole[key]) for key, value in resumed.module.state_dict().items())

    def test_folder_of_something_else(self, tmp_path: Path) -> None:
        (tmp_path / "events.txt").write_text("nothing")
        message = self.refuse(Regression, tmp_path)
        assert f"{tmp_path / 'state_dict.pth'} is missing" in message


class Diverges(Regression):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        if self.global_step >= 8:
            loss = torch.sqrt(-loss)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss


class TestNaN:
    @staticmethod
    def data(**options: Any) -> dict[str, Any]:
        return {
            "train_dataloaders": DataLoader(dataset(), batch_size=4),
            "val_dataloaders": DataLoader(dataset(8, seed=4), batch_size=4),
        }

    def test_is_reported(self, mocker: MockerFixture) -> None:
        case = Case(Diverges, self.data)
        lightning, determined = run_lightning(case), run_determined(case, mocker)
        assert_equal(lightning, determined)
        losses = [
            value for _, values in sorted(determined.logged.items()) for name, value in values if name == "loss_step"
        ]
        assert len(losses) == 18
        assert [loss != loss for loss in losses] == [False] * 8 + [True] * 10
        assert float(determined.callback_metrics["val_loss"]) != float(determined.callback_metrics["val_loss"])

    def test_is_detected_as_by_lightning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        options = {"max_epochs": 3, "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(**options, detect_anomaly=True, enable_model_summary=False, accelerator="cpu")
        with warnings_of_the_detection(), pytest.raises(RuntimeError) as theirs:
            trainer.fit(Diverges(), **self.data())
        with warnings_of_the_detection(), torch.autograd.set_detect_anomaly(True), pytest.raises(RuntimeError) as ours:
            lightning_shim.fit(Diverges, **self.data(), max_length=pytorch.Epoch(3))
        assert str(ours.value) == str(theirs.value)
        assert "nan values" in str(ours.value)
        assert max(checkpoints(folder())) == 6


@contextlib.contextmanager
def warnings_of_the_detection() -> Iterator[None]:
    """It says where the loss was computed, in a warning."""
    with pytest.warns(UserWarning, match="Error detected in SqrtBackward0"):
        yield
