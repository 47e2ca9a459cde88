"""What every test shares: no test leaves a patch behind, and none writes outside its own folder."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import determined.pytorch
import lightning.pytorch as lightning_pytorch
import pytest
import pytorch_lightning
import torch

import lightning_shim
from tests.support.given_warnings import forget_given_warnings
from tests.support.installed_versions import has_lightning, has_torch
from tests.support.namespaces import NAMESPACES

# The tensors of the tests are tiny: several threads would only wait for each other.
torch.set_num_threads(1)

PATCHED_CLASSES = (
    pytorch_lightning.LightningModule,
    lightning_pytorch.LightningModule,
    determined.pytorch._PyTorchTrialController,
)


# Its callbacks are there since 2.6.
collect_ignore = [] if has_lightning(">=2.6") else ["parity/test_weight_averaging.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of tests/e2e, which have to be known before that folder is looked at."""
    group = parser.getgroup("e2e", "tests on the cluster of DET_MASTER")
    group.addoption("--e2e-image", help="the image of the containers; by default the cluster's own")
    group.addoption("--e2e-slots", type=int, default=2, help="the slots of a distributed trial, and of two agents")
    group.addoption("--e2e-time-limit", type=float, default=900.0, help="the seconds that a trial may take")
    group.addoption("--e2e-stand-in", type=int, metavar="AGENTS", help="make a cluster up, with so many agents")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests of what is not installed: pytest.mark.lightning and torch say which versions have it."""
    marks = {"lightning": has_lightning, "torch": has_torch}
    lacking = {
        item
        for item in items
        if not all(has(*mark.args) for name, has in marks.items() for mark in item.iter_markers(name))
    }
    config.hook.pytest_deselected(items=list(lacking))
    items[:] = [item for item in items if item not in lacking]


@pytest.fixture(params=NAMESPACES)
def lightning(request: pytest.FixtureRequest) -> ModuleType:
    """Each namespace in turn."""
    return importlib.import_module(request.param)


@pytest.fixture
def pl() -> ModuleType:
    """One namespace, for what is the same in both."""
    return importlib.import_module(NAMESPACES[0])


@pytest.fixture(autouse=True)
def leaves_no_patch_behind() -> Iterator[None]:
    """Fails a test after which a patch is in force, or an entry of a patched class is not what it was."""
    assert not lightning_shim.is_patched()
    before = [dict(vars(patched)) for patched in PATCHED_CLASSES]
    yield
    assert not lightning_shim.is_patched(), "the test left Lightning patched"
    for patched_class, entries in zip(PATCHED_CLASSES, before, strict=True):
        after = dict(vars(patched_class))
        assert after.keys() == entries.keys()
        changed = [name for name, entry in entries.items() if after[name] is not entry]
        assert not changed, f"the test left {patched_class.__module__}.{patched_class.__name__} with other {changed}"


@pytest.fixture(autouse=True)
def is_given_every_warning() -> None:
    """Keeps a test's warnings from depending on the tests that ran before it in the process."""
    forget_given_warnings()


@pytest.fixture(scope="session")
def empty_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Gives an empty folder: the one it gave before, if that still is, since most tests write nothing."""
    folder = tmp_path_factory.mktemp("empty")

    def give() -> Path:
        nonlocal folder
        if any(folder.iterdir()):
            folder = tmp_path_factory.mktemp("empty")
        return folder

    return give


@pytest.fixture(autouse=True)
def writes_into_its_own_folder(
    request: pytest.FixtureRequest, empty_folder: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps what a training writes, which is below the working directory, in a folder of the test."""
    monkeypatch.chdir(request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else empty_folder())
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def patched() -> Iterator[None]:
    """Runs a test with Lightning patched."""
    with lightning_shim.patched():
        yield
