"""What a script's classes look like to those who look into them, while it runs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import pytorch_lightning as pl

import lightning_shim


class Defined(pl.LightningModule):
    def __init__(self, hidden: int, rate: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()


ORIGINAL = vars(Defined)["__init__"]


@pytest.fixture(autouse=True)
def _scripts() -> Iterator[None]:
    with lightning_shim.patched(trainer=True):
        yield


def test_constructor_is_a_function() -> None:
    entry = inspect.getattr_static(Defined, "__init__")
    assert entry is not ORIGINAL
    assert inspect.isfunction(entry)
    assert list(inspect.signature(entry).parameters) == ["self", "hidden", "rate"]
    assert Defined.__init__ is ORIGINAL


def test_off_cluster_the_scripts_values_count() -> None:
    class Later(Defined):
        def __init__(self, depth: int) -> None:
            super().__init__(hidden=depth + 1)

    assert dict(Later(3).hparams) == {"depth": 3, "hidden": 4, "rate": 0.1}


def test_unpatch_puts_it_back() -> None:
    lightning_shim.unpatch()
    assert vars(Defined)["__init__"] is ORIGINAL
    assert "__init_subclass__" not in vars(pl.LightningModule)
