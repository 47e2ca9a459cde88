"""What a training writes where there is no terminal."""

from __future__ import annotations

import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

import lightning_shim
from lightning_shim.trial.journal import LOGGER, shown_on_standard_error
from tests.support.ports import free_ports
from tests.support.prepared_python import python
from tests.support.repository import REPOSITORY
from tests.support.tiny import loader, tiny


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "lightning_shim"]


def folder_of(trial: lightning_shim.LightningTrial) -> Path:
    """Where its checkpoints are."""
    return Path(str(trial.checkpoint_path)).parent


@pytest.fixture(autouse=True)
def has_no_terminal(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As the tests are run by hand as well, in one."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    caplog.set_level(logging.INFO, "lightning_shim")


class TestLines:
    def test_say_what_was_reported(self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture) -> None:
        class Lit(tiny(pl)):  # type: ignore[misc]
            def training_step(self, batch: Any, batch_idx: int) -> Any:
                self.log("step", float(batch_idx))
                self.log("epoch", 1 / 3, on_step=False, on_epoch=True)
                return super().training_step(batch, batch_idx)

            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", 12345678.0)

        trial = lightning_shim.fit(
            Lit(), loader(), loader(), max_length=pytorch.Epoch(1), reporting_period=pytorch.Batch(2)
        )
        *reported, result, end = lines(caplog)
        assert reported == [
            f"training Lit, 4 parameters, 1 process on cpu, up to 1 epoch, results in {folder_of(trial)}",
            "epoch 0, batch 2, training: step=1",
            "epoch 0, batch 4, training: step=3",
            "epoch 0, batch 4, validation: val_loss=1.23457e+07",
            "epoch 0, batch 4, end of the epoch: epoch=0.333333",
            f"epoch 0, batch 4, checkpoint: {trial.checkpoint_path}",
        ]
        header, columns, *rows, seconds = result.splitlines()
        assert (header, columns.split()) == ("what was reported:", ["last", "lowest", "highest"])
        assert [row.split() for row in rows] == [
            ["step", "3", "1", "3"],
            ["val_loss", "1.23457e+07", "1.23457e+07", "1.23457e+07"],
            ["epoch", "0.333333", "0.333333", "0.333333"],
        ]
        assert re.fullmatch(r"  in \d+\.\d seconds", seconds)
        assert end == "trained to its length, after 1 epoch, 4 batches, 4 steps"

    def test_sum_up_what_was_never_a_number(
        self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Lit(tiny(pl)):  # type: ignore[misc]
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                self.log("val_loss", (2.0, float("nan"), 1.0, float("nan"))[self.current_epoch])

        lightning_shim.fit(Lit(), loader(), loader(), max_length=pytorch.Epoch(4))
        assert ["val_loss", "nan", "1", "2"] in [row.split() for row in lines(caplog)[-2].splitlines()]

    def test_of_a_trial_that_goes_on(self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture) -> None:
        first = lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Batch(3))
        caplog.clear()
        lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Batch(5), latest_checkpoint=first.checkpoint_path)
        start, *_, checkpoint, end = lines(caplog)
        assert start == (
            f"training Tiny, 4 parameters, 1 process on cpu, up to 5 steps, results in {folder_of(first)}, "
            f"going on after batch 3, from {first.checkpoint_path}"
        )
        assert checkpoint.startswith("epoch 1, batch 5, checkpoint: ")
        assert end == "trained to its length, after 2 epochs, 5 batches, 5 steps"

    def test_of_a_validation_without_values(
        self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Lit(tiny(pl)):  # type: ignore[misc]
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                pass

        lightning_shim.fit(Lit(), loader(), loader(), max_length=pytorch.Epoch(1))
        assert "epoch 0, batch 4, validation: nothing was logged" in lines(caplog)

    def test_of_a_script(self, pl: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
        trainer_options = {"max_steps": 6, "accelerator": "cpu", "enable_progress_bar": False, "logger": False}
        with lightning_shim.patched(trainer=True):
            pl.Trainer(**trainer_options, enable_model_summary=False).fit(tiny(pl)(), loader())
        place = Path.cwd()
        start = f"training Tiny, 4 parameters, 1 process on cpu, up to 6 steps, results in {place}"
        assert lines(caplog)[0] == start
        assert lines(caplog)[-1] == "trained to its length, after 2 epochs, 6 batches, 6 steps"

    def test_of_a_trial_that_the_user_runs(
        self, pl: ModuleType, patched: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By Determined's Trainer, as ``fit`` does."""
        length = pytorch.Epoch(1)
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        by_fit = lightning_shim.fit(tiny(pl)(), loader(), max_length=length)
        of_fit = capsys.readouterr().err
        with pytorch.init() as context:
            trial = lightning_shim.LightningTrial(context, tiny(pl)(), train_dataloaders=loader(), max_length=length)
            pytorch.Trainer(trial, context).fit(max_length=length, checkpoint_policy="all")
        shown = capsys.readouterr().err
        assert "lightning_shim: trained to its length, after 1 epoch, 4 batches, 4 steps\n" in shown
        assert shown == of_fit.replace(str(by_fit.checkpoint_path), str(trial.checkpoint_path))
        assert (LOGGER.handlers, LOGGER.propagate) == ([], True)


def by_the_module(pl: ModuleType) -> tuple[Any, list[Any]]:
    class Lit(tiny(pl)):  # type: ignore[misc]
        def on_train_batch_end(self, *args: Any) -> None:
            self.trainer.should_stop = True  # here: stops

    return Lit(), []


def by_a_callback(pl: ModuleType) -> tuple[Any, list[Any]]:
    class Lit(tiny(pl)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("never_better", 1.0)
            return super().training_step(batch, batch_idx)

    stopping = pl.callbacks.EarlyStopping("never_better", patience=1, check_on_train_epoch_end=True)
    return Lit(), [stopping]


class TestEnd:
    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (by_the_module, f"{__file__}:"),
            (by_a_callback, "EarlyStopping, after 2 epochs, 8 batches, 8 steps"),
        ],
    )
    def test_says_who_has_stopped_it(
        self,
        make: Callable[[ModuleType], tuple[Any, list[Any]]],
        reason: str,
        pl: ModuleType,
        patched: None,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        module, callbacks = make(pl)
        lightning_shim.fit(module, loader(), max_length=pytorch.Epoch(5), callbacks=callbacks)
        assert lines(caplog)[-1].startswith(f"stopped early by {reason}")

    def test_of_a_pause(
        self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("determined.core.DummyPreemptContext.should_preempt", lambda *args, **kwargs: True)
        lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(5), reporting_period=pytorch.Batch(2))
        assert lines(caplog)[-1] == "paused, after 0 epochs, 2 batches, 2 steps"

    def test_of_test_mode(self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture) -> None:
        lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(5), test_mode=True)
        assert lines(caplog)[-1].startswith("ended by test mode, after ")

    def test_of_nothing_to_train(self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture) -> None:
        trained = lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(1)).checkpoint_path
        assert trained is not None
        caplog.clear()
        lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(1), ckpt_path=Path(trained, "state_dict.pth"))
        assert lines(caplog)[-1] == "nothing was left to train, after 1 epoch, 4 batches, 4 steps"

    def test_of_an_error_is_the_error(self, pl: ModuleType, patched: None, caplog: pytest.LogCaptureFixture) -> None:
        class Lit(tiny(pl)):  # type: ignore[misc]
            def on_train_epoch_end(self) -> None:
                raise RuntimeError("of the user's")

        with pytest.raises(RuntimeError, match="of the user's"):
            lightning_shim.fit(Lit(), loader(), max_length=pytorch.Epoch(1))
        assert not [line for line in lines(caplog) if " after " in line]


class TestConfigurationInTheMeantime:
    def test_by_a_warning_of_somebodys(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Which gives the root logger a handler."""
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        with shown_on_standard_error():
            LOGGER.info("first")
            logging.warning("pynvml module not found")
            LOGGER.info("second")
        assert capsys.readouterr().err.splitlines() == [
            "lightning_shim: first",
            "WARNING:root:pynvml module not found",
            "lightning_shim: second",
        ]

    @pytest.mark.parametrize("name", ["", "lightning_shim"])
    def test_by_the_user(self, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(logging.getLogger(), "handlers", [])
        users, logger = io.StringIO(), logging.getLogger(name)
        handler = logging.StreamHandler(users)
        with shown_on_standard_error():
            LOGGER.info("first")
            handler.setFormatter(logging.Formatter("user: %(message)s"))
            logger.addHandler(handler)
            LOGGER.info("second")
        logger.removeHandler(handler)
        assert capsys.readouterr().err == "lightning_shim: first\n"
        assert users.getvalue() == "user: second\n"


def executed(folder: Path, program: str, *command: str) -> tuple[str, str]:
    """Runs Python without a terminal, and returns what it has printed and what of that are errors."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    process = subprocess.run(
        [program, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=200
    )
    assert process.returncode == 0, process.stderr
    return process.stdout, process.stderr


CONFIGURED = """
import logging, runpy, sys

{configuration}
before = logging.getLogger().handlers[:], logging.getLogger("lightning_shim").handlers[:]
sys.argv = ["fit", "0"]
runpy.run_module("tests.terminal.fit", run_name="__main__")
assert before == (logging.getLogger().handlers, logging.getLogger("lightning_shim").handlers)
assert logging.getLogger("lightning_shim").level == {level}
"""


class TestScript:
    @pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar", None])
    @pytest.mark.parametrize("verb", ["fit", "validate"])
    def test_has_lightnings_bar(
        self, bar: str | None, verb: str, pl: ModuleType, capsys: pytest.CaptureFixture[str]
    ) -> None:
        class Lit(tiny(pl)):  # type: ignore[misc]
            def validation_step(self, batch: Any, batch_idx: int) -> None:
                pass

        def drawn() -> set[tuple[str, str]]:
            trainer = pl.Trainer(
                callbacks=None if bar is None else [getattr(pl.callbacks, bar)()],
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
            )
            getattr(trainer, verb)(Lit(), *[loader() for _ in range(1 + (verb == "fit"))])
            return set(re.findall(r"(Epoch|Validation)[^\r\n]*?\b(\d/4)\b", capsys.readouterr().out))

        lightnings = drawn()
        assert {count for _, count in lightnings} >= {"4/4"}
        with lightning_shim.patched(trainer=True):
            assert drawn() == lightnings


class TestLogging:
    END = "trained to its length, after 2 epochs, 8 batches, 8 steps"

    @pytest.mark.parametrize(
        ("configuration", "level", "expected"),
        [
            ("", 0, f"lightning_shim: {END}"),
            ('logging.basicConfig(level="INFO", format="mine: %(message)s")', 0, f"mine: {END}"),
            ('logging.basicConfig(level="WARNING")', 0, None),
            ('logging.getLogger("lightning_shim").setLevel("ERROR")', 40, None),
        ],
        ids=["none", "root at INFO", "root at WARNING", "level of the logger"],
    )
    def test_is_as_it_was_configured(
        self, configuration: str, level: int, expected: str | None, tmp_path: Path
    ) -> None:
        script = CONFIGURED.format(configuration=configuration, level=level)
        # Lightning looks at it when it is imported.
        printed, errors = executed(tmp_path, sys.executable, "-c", script)
        assert self.END not in printed
        assert [line for line in errors.splitlines() if self.END in line] == [expected] * (expected is not None)
        assert "batch/s" not in errors

    def test_one_process_of_two_writes(self, tmp_path: Path) -> None:
        launcher = ("-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_ports(1)[0]}")
        command = (*launcher, "-m", "lightning_shim", "run", "-m", "tests.terminal.train", "0")
        _, errors = executed(tmp_path, python(), *command)
        written = [line for line in errors.splitlines() if line.startswith("lightning_shim: ")]
        start = "lightning_shim: training Lit, 4 parameters, 2 processes on cpu, up to 2 epochs, results in "
        assert written[0].startswith(start)
        assert written[-1] == f"lightning_shim: {self.END}"
        assert len(written) == len(set(written)) == 11
