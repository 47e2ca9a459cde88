"""What a script's own Trainer saves after ``fit`` of a precision, and how it goes on with it, as Lightning's does."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import lightning_shim
from lightning_shim.loop import precision as precisions
from tests.parity.oracle import assert_same
from tests.support.lightning_trainer import QUIET
from tests.support.tiny import loader, tiny

SCALED = "16-mixed"


@pytest.fixture
def scaler_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a name stand for what ``16-mixed`` is on a GPU: on a CPU Lightning's Trainer would not take it."""
    monkeypatch.setitem(precisions._FORMATS, "bf16-mixed", precisions._FORMATS[SCALED])


class Overflows(tiny(pl)):  # type: ignore[misc]
    """Its first gradients are infinite where there is a scaler, which backs off and grows again every second step."""

    def on_fit_start(self) -> None:
        if self.trainer.scaler is not None:
            self.trainer.scaler.set_growth_interval(2)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return loss * torch.inf if batch_idx == 0 and self.trainer.scaler is not None else loss


def saved(precision: str, is_patched: bool) -> list[dict[str, Any]]:
    """Trains with a script's Trainer twice, and returns what it saves each time."""
    contents = []
    with lightning_shim.patched(trainer=is_patched):
        torch.manual_seed(0)
        trainer = pl.Trainer(**QUIET, max_epochs=1, precision="bf16-mixed" if precision == SCALED else precision)
        if precision == SCALED:
            trainer.precision_plugin.scaler = torch.amp.GradScaler("cpu")
            if not is_patched:
                trainer.precision_plugin.precision = SCALED
        module = Overflows()
        for epochs in (1, 2):
            trainer.fit_loop.max_epochs = epochs
            trainer.fit(module, loader(12))
            trainer.save_checkpoint("own.ckpt")
            content = torch.load("own.ckpt", weights_only=False)
            # Its loops count, which has nothing to do with the precision.
            del content["loops"]
            contents.append(content)
    return contents


class ReadsPrecision(tiny(pl)):  # type: ignore[misc]
    """Notes what the plugin says of itself."""

    def on_train_start(self) -> None:
        plugin = self.trainer.precision_plugin
        self.seen = (self.trainer.precision, plugin.precision, getattr(plugin, "device", "cpu"))


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_plugin_names_itself(precision: Any) -> None:
    seen = []
    for is_patched in (False, True):
        module = ReadsPrecision()
        with lightning_shim.patched(trainer=is_patched):
            pl.Trainer(**QUIET, max_epochs=1, precision=precision).fit(module, loader(1))
        seen.append(module.seen)
    assert seen[0] == seen[1]


@pytest.mark.parametrize("precision", ["32-true", "16-true", "bf16-mixed"])
def test_saves_no_scaler(precision: str) -> None:
    lightning, ours = (saved(precision, is_patched) for is_patched in (False, True))
    assert_same(ours, lightning)
    assert "MixedPrecision" not in ours[0]


@pytest.mark.usefixtures("scaler_on_the_cpu")
def test_saves_the_scaler_that_has_trained() -> None:
    lightning, ours = (saved(SCALED, is_patched) for is_patched in (False, True))
    assert_same(ours, lightning)
    first, second = (content["MixedPrecision"] for content in ours)
    assert first["scale"] == 2.0**16
    assert first["growth_interval"] == 2
    assert (first["_growth_tracker"], second["scale"]) == (0, 2.0**16)
