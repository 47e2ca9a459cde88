"""SIGTERM, and SLURM's request to requeue, end a script's training as in Lightning."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException

import lightning_shim
from lightning_shim.script import fit
from tests.script.test_trainer_object import ARGUMENTS, Exceptions, Module, attributes, loader


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    # Lightning leaves a signal alone that somebody handles, as Determined may since an earlier test.
    former = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, handler in zip(numbers, former, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("at_hook", "at_step"),
    [
        ("training_step", 1),
        # Lightning ends the epoch first.
        ("training_step", 3),
        ("training_step", 7),
        ("validation_step", 4),
        ("on_train_epoch_end", 4),
        ("on_train_epoch_end", 8),
    ],
)
def test_sigterm(compared: Any, at_hook: str, at_step: int) -> None:
    def script() -> Any:
        seen: list[Any] = []
        trainer = pl.Trainer(**ARGUMENTS, callbacks=[Exceptions()])

        def act(hook: str, module: Any) -> None:
            seen.append((hook, module.global_step, module.trainer.received_sigterm, trainer.received_sigterm))
            if hook.startswith("on_exception"):
                # As OnExceptionCheckpoint does.
                trainer.save_checkpoint("on_exception.ckpt")
            if hook == at_hook and module.global_step == at_step and not trainer.received_sigterm:
                os.kill(os.getpid(), signal.SIGTERM)

        def handler(*args: Any) -> None:
            seen.append("the script's own handler")

        signal.signal(signal.SIGTERM, handler)
        with pytest.raises(SIGTERMException):
            trainer.fit(Module(act), loader(), loader(2))
        saved = torch.load("on_exception.ckpt", weights_only=False)
        assert signal.getsignal(signal.SIGTERM) is handler
        return seen, trainer.received_sigterm, attributes(trainer), saved["global_step"], saved["epoch"]

    assert "the script's own handler" in compared(script)[0]


@pytest.mark.filterwarnings("ignore:.*SLURM:lightning_shim.DifferenceWarning")
def test_request_to_requeue(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12345")
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.environ['PATH']}")

    def script() -> Any:
        command = Path("scontrol")
        command.write_text('#!/bin/sh\necho "$@" > requeued\n')
        command.chmod(0o755)

        def act(hook: str, module: Any) -> None:
            if hook == "on_train_batch_end" and module.global_step == 3:
                os.kill(os.getpid(), signal.SIGUSR1)

        trainer = trainer_of_slurm()
        trainer.fit(Module(act), loader(), loader(2))
        saved = torch.load("hpc_ckpt_1.ckpt", weights_only=False)
        trainer_after = trainer_of_slurm()
        trainer_after.fit(Module(), loader(), loader(2))
        return Path("requeued").read_text(), saved["global_step"], attributes(trainer), attributes(trainer_after)

    assert compared(script)[0] == "requeue 12345\n"


def trainer_of_slurm() -> Any:
    return pl.Trainer(**ARGUMENTS, plugins=[SLURMEnvironment()], default_root_dir=".")


def test_cluster_takes_no_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    with lightning_shim.patched(trainer=True):
        monkeypatch.setattr(fit, "_has_run_on_cluster", False)
        monkeypatch.setattr(fit, "is_on_cluster", lambda: True)
        module = Module(lambda hook, module: seen.append(signal.getsignal(signal.SIGTERM)))
        pl.Trainer(**ARGUMENTS).fit(module, loader(), loader(2))
    assert set(seen) == {signal.getsignal(signal.SIGTERM)}
