"""A script that trains nothing gets a line that says so, when it has ended well."""

from __future__ import annotations

from types import ModuleType

import pytest
from determined import pytorch

import lightning_shim
from lightning_shim import LightningTrial
from lightning_shim.script.run import said_if_nothing_trains
from tests.support.tiny import loader, tiny

LINE = "lightning_shim: the script has ended without a call of Trainer.fit, so nothing was trained.\n"


@pytest.fixture(autouse=True)
def _trains_nothing_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LightningTrial, "was_made", False)


@pytest.mark.parametrize(
    ("ending", "line"), [(None, LINE), (SystemExit(0), LINE), (SystemExit(3), ""), (ValueError("mine"), "")]
)
def test_script_that_trains_nothing(
    ending: BaseException | None, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        with said_if_nothing_trains():
            if ending is not None:
                raise ending
    except BaseException as error:
        if error is not ending:
            raise
    assert capsys.readouterr().out == line


@pytest.mark.usefixtures("patched")
def test_script_that_trains(pl: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with said_if_nothing_trains():
        lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Batch(1))
    assert LINE not in capsys.readouterr().out
