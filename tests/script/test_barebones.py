"""A barebones Trainer does without the same things, and says the same, as Lightning's."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import determined as det
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping

import lightning_shim
from tests.script.test_trainer_object import Module, attributes, loader

BAREBONES: dict[str, Any] = {"max_epochs": 2, "accelerator": "cpu", "barebones": True}


class Logs(Module):
    """Logs in all ways, and returns what a trial would report if nothing were logged."""

    def on_train_start(self) -> None:
        self.log_dict({"first": 1.0, "second": 2})

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        return {"returned": self.layer(batch[0]).mean()}

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test", 1.0)


def test_run_is_lightnings(compared: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    def script() -> Any:
        caplog.clear()
        seen: list[Any] = []
        with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.INFO):
            warnings.simplefilter("always")
            trainer = pl.Trainer(**BAREBONES)
            module = Logs(
                lambda hook, module: seen.append((hook, attributes(module.trainer), module.trainer.barebones))
            )
            trainer.fit(module, loader(), loader(2))
            fitted = attributes(trainer)
            tested = trainer.test(module, loader(2), verbose=False)
        said = [str(warning.message) for warning in caught if "`self.log()`" in str(warning.message)]
        return (
            said,
            [message for message in caplog.messages if "barebones" in message],
            seen,
            fitted,
            (trainer.loggers, trainer.checkpoint_callback, [type(each).__name__ for each in trainer.callbacks]),
            (trainer.log_every_n_steps, trainer.num_sanity_val_steps),
            tested,
            module.state_dict(),
            torch.get_rng_state(),
            sorted(str(path) for path in Path().rglob("*")),
        )

    said, announced, *_, files = compared(script)
    assert len(said) > 8
    assert len(announced) == 3
    assert files == []
    assert "returned" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "argument",
    [
        {"enable_checkpointing": True},
        {"logger": True},
        {"enable_progress_bar": True},
        {"log_every_n_steps": 1},
        {"enable_model_summary": True},
        {"num_sanity_val_steps": 1},
        {"fast_dev_run": True},
        {"detect_anomaly": True},
        {"profiler": "simple"},
    ],
    ids=lambda argument: next(iter(argument)),
)
def test_combination_is_lightnings_error(compared: Any, argument: dict[str, Any]) -> None:
    def script() -> Any:
        with pytest.raises(ValueError, match="is disabled in barebones mode") as error:
            pl.Trainer(**BAREBONES, **argument)
        return str(error.value)

    compared(script)


def test_monitor_misses_its_metric_as_in_lightning(compared: Any) -> None:
    def script() -> Any:
        trainer = pl.Trainer(**BAREBONES, callbacks=[EarlyStopping("val_loss")])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError, match="`val_loss` which is not available") as error:
                trainer.fit(Logs(), loader(), loader(2))
        return str(error.value), attributes(trainer)

    compared(script)


def test_cluster_gives_it_no_logger_and_no_period(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = det.TrialInfo(1, 1, 3, {}, {"scheduling_unit": 7}, 0, 1, False, None)
    info = det.ClusterInfo("http://master", "", "", [], "", "", "", "TRIAL", trial_info=trial)
    monkeypatch.setattr(det._info, "_info", info)
    with (
        lightning_shim.patched(trainer=True),
        pytest.warns(lightning_shim.DifferenceWarning, match=r"Trainer\(barebones=True\).*scheduling_unit: 7"),
    ):
        trainer = pl.Trainer(**BAREBONES)
    assert (trainer.loggers, trainer.log_every_n_steps) == ([], 0)
