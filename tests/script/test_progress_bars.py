"""A progress bar, Lightning's default or one of the user's own, is called as by Lightning's own Trainer."""

from __future__ import annotations

import io
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from pytorch_lightning.trainer.connectors import callback_connector
from rich.console import Console

import lightning_shim
from tests.script.test_trainer_object import ARGUMENTS, Module, loader

Seen = list[Any]
HOOKS = [name for name in dir(pl.Callback) if name.startswith("on_") and "checkpoint" not in name]


def recording(base: type[Any], seen: Seen) -> type[Any]:
    """Derives a progress bar that notes its hooks, and what it has to show in them."""

    def hook(name: str) -> Any:
        def call(self: Any, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            getattr(base, name)(self, trainer, pl_module, *args, **kwargs)
            metrics = self.get_metrics(trainer, pl_module)
            # The logger's version, and Determined's logger is always there.
            metrics.pop("v_num", None)
            counts = {"total": self.total_train_batches, "metrics": metrics}
            if "validation_batch" in name and base is not Quiet:
                counts["validation"] = self.total_val_batches_current_dataloader
            if "train" in name:
                counts["all"] = self.total_val_batches
            seen.append((name, trainer.progress_bar_callback is self, counts))

        return call

    return type("Recording", (base,), {name: hook(name) for name in HOOKS})


class Quiet(ProgressBar):
    """A user's own bar."""

    is_enabled = True

    def disable(self) -> None:
        """Nothing is shown anyway."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        print("bar:", *args)


class Prints(Module):
    """Prints through the progress bar."""

    def on_train_epoch_end(self) -> None:
        self.print("module", self.current_epoch)
        self.trainer.print("trainer", self.current_epoch)


@pytest.mark.parametrize("base", [Quiet, TQDMProgressBar, RichProgressBar])
@pytest.mark.parametrize("every", [1, 2])
def test_hooks_are_lightnings(compared: Any, capsys: pytest.CaptureFixture[str], base: type[Any], every: int) -> None:
    def script() -> Any:
        seen: Seen = []
        arguments = {**ARGUMENTS, "enable_progress_bar": True, "check_val_every_n_epoch": every}
        trainer = pl.Trainer(**arguments, callbacks=[recording(base, seen)()])
        trainer.fit(Prints(), loader(), loader(2))
        # What the bars draw themselves depends on the time.
        printed = [line for line in capsys.readouterr().out.splitlines() if "module" in line or "trainer" in line]
        return seen, printed if base is Quiet else len(printed)

    seen, printed = compared(script)
    assert len(seen) > 30
    assert printed


def test_bar_for_rich_is_drawn(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.chdir(tmp_path)
    with lightning_shim.patched(trainer=True):
        bar = RichProgressBar(console_kwargs={"file": file, "force_terminal": True})
        trainer = pl.Trainer(**{**ARGUMENTS, "enable_progress_bar": True}, callbacks=[bar])
        trainer.fit(Module(), loader(), loader(2))
    drawn = Console(file=file).file.getvalue()  # type: ignore[attr-defined]
    assert "Epoch 1/1" in drawn
    assert "4/4" in drawn


@pytest.mark.parametrize("has_rich", [False, True])
def test_default_bar_is_lightnings(compared: Any, monkeypatch: pytest.MonkeyPatch, has_rich: bool) -> None:
    """It is the same object among the callbacks, before, during and after the training."""
    # Lightning has chosen by it since 2.6.
    monkeypatch.setattr(callback_connector, "_RICH_AVAILABLE", has_rich, raising=False)

    class Looks(pl.Callback):
        def look(self, trainer: Any, name: str) -> None:
            current = trainer.progress_bar_callback
            bar = current.train_progress_bar if isinstance(current, TQDMProgressBar) else None
            drawn = None if bar is None else (bar.n, bar.total)
            totals = current.total_train_batches, current.total_val_batches
            seen.append((name, current is default, trainer.callbacks.index(current), totals, drawn))

        def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
            self.look(trainer, "batch")

        def on_validation_end(self, trainer: Any, *args: Any) -> None:
            self.look(trainer, "validation")

    seen: Seen = []
    default: Any = None

    def script() -> Any:
        nonlocal default
        seen.clear()
        arguments = {**ARGUMENTS, "enable_progress_bar": True, "check_val_every_n_epoch": 2}
        trainer = pl.Trainer(**arguments, callbacks=[Looks()])
        default = trainer.progress_bar_callback
        trainer.fit(Module(), loader(), loader(2))
        trainer.save_checkpoint("end.ckpt")
        states = torch.load("end.ckpt", weights_only=True)["callbacks"]
        types = [type(callback).__name__ for callback in trainer.callbacks]
        return list(seen), types, list(states), trainer.progress_bar_callback is default, default.is_enabled

    seen, types, *_ = compared(script)
    assert type(default).__name__ in types
    assert {entry[1] for entry in seen} == {True}
