"""What stands behind the progress bar."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from determined import pytorch

import lightning_shim
from tests.support.tiny import loader, tiny


def logs_its_own(pl: ModuleType) -> tuple[type, dict[str, Any]]:
    class Lit(tiny(pl)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            self.log("loss", 7.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    return Lit, {}


def returns_half(pl: ModuleType) -> type:
    class Lit(tiny(pl)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return 0 * super().training_step(batch, batch_idx) + 0.5

    return Lit


def accumulates(pl: ModuleType) -> tuple[type, dict[str, Any]]:
    return returns_half(pl), {"accumulate_grad_batches": 2}


def returns_a_dictionary(pl: ModuleType) -> tuple[type, dict[str, Any]]:
    class Lit(returns_half(pl)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return {"loss": super().training_step(batch, batch_idx), "other": 3}

    return Lit, {}


def optimizes_manually(pl: ModuleType) -> tuple[type, dict[str, Any]]:
    class Lit(returns_half(pl)):  # type: ignore[misc]
        automatic_optimization = False

    return Lit, {}


def returns_nothing(pl: ModuleType) -> tuple[type, dict[str, Any]]:
    class Lit(tiny(pl)):  # type: ignore[misc]
        def training_step(self, batch: Any, batch_idx: int) -> None:
            self.log("logged", 7.0, prog_bar=True)

    return Lit, {}


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (accumulates, "loss=0.5"),
        (returns_a_dictionary, "loss=0.5"),
        (optimizes_manually, "loss=0.5"),
        (logs_its_own, "loss=7"),
        pytest.param(
            returns_nothing,
            "logged=7",
            marks=pytest.mark.filterwarnings("ignore:`training_step` returned `None`"),
        ),
    ],
)
def test_loss(
    make: Callable[[ModuleType], tuple[type, dict[str, Any]]],
    expected: str,
    pl: ModuleType,
    patched: None,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    module_class, options = make(pl)
    # The bar of the second epoch starts with what is known from the first.
    lightning_shim.fit(module_class(), loader(), max_length=pytorch.Epoch(2), **options)
    assert set(re.findall(r"batch/s, (.+?)\]", capsys.readouterr().err)) == {expected}


def test_a_stream_has_no_total(
    pl: ModuleType, patched: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream:
        def __iter__(self) -> Any:
            return iter(loader())

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    lightning_shim.fit(tiny(pl)(), Stream(), max_length=pytorch.Batch(6))
    shown = capsys.readouterr().err
    assert "Epoch 1: " in shown
    assert "0batch [" in shown
