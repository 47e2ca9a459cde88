"""The patch and the order of imports, each in a process of its own: run as a script, this file is these processes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import wrapt

from tests.support.namespaces import NAMESPACES
from tests.support.repository import REPOSITORY

PATCHED_PACKAGES = ("pytorch_lightning", "lightning", "lightning_fabric", "determined")
# Most of the time that Lightning takes to import goes into what it imports of others: the scenarios share that.
SHARED_MODULES = ("torch._dynamo", "torch.utils.tensorboard", "torchmetrics")
HEAVY_PACKAGES = ("torch", "torchmetrics", *PATCHED_PACKAGES)
PATCHED_ENTRIES = {
    "log",
    "log_dict",
    "print",
    "trainer",
    "logger",
    "loggers",
    "optimizer_step",
    "optimizer_zero_grad",
    "configure_gradient_clipping",
    "lr_scheduler_step",
    "toggle_optimizer",
    "backward",
    "manual_backward",
}


def patch_by_call() -> None:
    importlib.import_module("lightning_shim").patch()


def patch_by_import() -> None:
    importlib.import_module("monkey_patch")


WAYS = {"patch": patch_by_call, "monkey_patch": patch_by_import}


class Originals:
    """What each LightningModule was when its module had just been imported, before anybody could patch it."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, object]] = {}
        for namespace in NAMESPACES:
            # Hooks run in the order of their registration, and lightning_shim is not imported yet.
            wrapt.register_post_import_hook(self._keep, f"{namespace}.core.module")

    def _keep(self, module: ModuleType) -> None:
        self.entries[module.__name__.removesuffix(".core.module")] = dict(vars(module.LightningModule))

    def changed(self, namespace: str) -> set[str]:
        present = vars(importlib.import_module(namespace).LightningModule)
        entries = self.entries[namespace]
        assert present.keys() == entries.keys()
        return {name for name, entry in entries.items() if present[name] is not entry}


def imported(*packages: str) -> list[str]:
    return [package for package in packages if package in sys.modules]


def scenario_patched_before(first: str, second: str, way: str) -> None:
    originals = Originals()
    WAYS[way]()
    assert imported(*PATCHED_PACKAGES) == []
    importlib.import_module(first)
    assert originals.changed(first) == PATCHED_ENTRIES
    assert imported(second) == []
    importlib.import_module(second)
    assert originals.changed(second) == PATCHED_ENTRIES
    assert imported("determined") == []
    unpatch_restores(originals)


def scenario_patched_after(first: str, second: str, way: str) -> None:
    originals = Originals()
    importlib.import_module(first)
    assert imported("lightning_shim") == []
    WAYS[way]()
    assert originals.changed(first) == PATCHED_ENTRIES
    assert imported(second, "determined") == []
    importlib.import_module(second)
    assert originals.changed(second) == PATCHED_ENTRIES
    unpatch_restores(originals)


def scenario_not_patched(first: str, second: str) -> None:
    originals = Originals()
    shim = importlib.import_module("lightning_shim")
    importlib.import_module(first)
    assert not shim.is_patched()
    assert originals.changed(first) == set()
    shim.patch()
    shim.unpatch()
    # Its import comes after the patch was withdrawn.
    importlib.import_module(second)
    assert originals.changed(first) == originals.changed(second) == set()
    # Both at once.
    shim.patch()
    assert originals.changed(first) == originals.changed(second) == PATCHED_ENTRIES
    unpatch_restores(originals)


def scenario_patched_while_importing(first: str, _: str) -> None:
    originals = Originals()
    shim = importlib.import_module("lightning_shim")
    errors = []

    def patch_now(_: ModuleType) -> None:
        assert not hasattr(sys.modules[f"{first}.core.module"], "LightningModule")
        with pytest.raises(shim.PatchError) as raised:
            shim.patch()
        errors.append(str(raised.value))

    # It is imported by the module that defines LightningModule, before that class is there.
    wrapt.register_post_import_hook(patch_now, f"{first}.core.optimizer")
    importlib.import_module(first)
    (error,) = errors
    assert (
        f"test_import.py:{patch_now.__code__.co_firstlineno + 3}: patch() is called while {first}.core.module" in error
    )
    assert not shim.is_patched()
    assert originals.changed(first) == set()
    shim.patch()
    assert originals.changed(first) == PATCHED_ENTRIES


def scenario_patched_while_another_thread_imports(first: str, _: str) -> None:
    originals = Originals()
    shim = importlib.import_module("lightning_shim")
    patching = threading.Event()

    def wait(_: ModuleType) -> None:
        assert not hasattr(sys.modules[f"{first}.core.module"], "LightningModule")
        thread.start()
        assert patching.wait(timeout=60)

    def patch_now() -> None:
        patching.set()
        shim.patch()

    thread = threading.Thread(target=patch_now)
    wrapt.register_post_import_hook(wait, f"{first}.core.optimizer")
    importlib.import_module(first)
    thread.join()
    assert originals.changed(first) == PATCHED_ENTRIES


def unpatch_restores(originals: Originals) -> None:
    shim = importlib.import_module("lightning_shim")
    assert shim.is_patched()
    shim.unpatch()
    assert not shim.is_patched()
    for namespace in NAMESPACES:
        assert originals.changed(namespace) == set()


# Each namespace comes first once, by each way of patching, before and after.
SCENARIOS: dict[str, Callable[[], None]] = {
    "patched before": lambda: scenario_patched_before(*NAMESPACES, "patch"),
    "patched before, by import": lambda: scenario_patched_before(*NAMESPACES[::-1], "monkey_patch"),
    "patched after": lambda: scenario_patched_after(*NAMESPACES[::-1], "patch"),
    "patched after, by import": lambda: scenario_patched_after(*NAMESPACES, "monkey_patch"),
    "not patched": lambda: scenario_not_patched(*NAMESPACES),
    "patched while importing": lambda: scenario_patched_while_importing(*NAMESPACES),
    "patched while another thread imports": lambda: scenario_patched_while_another_thread_imports(*NAMESPACES),
}


def run_scenarios(folder: Path) -> None:
    """Runs each scenario in a process that has imported none of what is patched, and writes how it has ended."""
    for name in SHARED_MODULES:
        importlib.import_module(name)
    assert imported("lightning_shim", *PATCHED_PACKAGES) == []
    for name, scenario in SCENARIOS.items():
        if os.fork():
            os.wait()
            continue
        try:
            scenario()
        except BaseException:
            (folder / name).write_text(traceback.format_exc())
        else:
            (folder / name).write_text("passed")
        os._exit(0)


def run(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    finished = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.mark.parametrize("code", ["", "lightning_shim.patch()", "import monkey_patch", "dir(lightning_shim)"])
def test_heavy_packages_stay_out(code: str) -> None:
    script = f"import sys, lightning_shim\n{code}\nprint(*[name for name in {HEAVY_PACKAGES} if name in sys.modules])"
    assert run("-c", script).split() == []


FIRST_FIT = """
import subprocess, sys, warnings
import pytorch_lightning as pl, torch
import lightning_shim
from determined import pytorch

warnings.simplefilter("ignore")

class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        loss = self.layer(batch).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

def no_process(*args, **kwargs):
    raise AssertionError(f"{args} was started")

subprocess.Popen.__init__ = no_process
before = set(sys.modules)
lightning_shim.fit(Module(), torch.utils.data.DataLoader(torch.ones(2, 1)), max_length=pytorch.Epoch(1))
print("imported", [name for name in sys.argv[1:] if name in set(sys.modules) - before])
"""
# Each of these takes as long to import as Determined. TensorBoard is needed: an event file is written.
NOT_NEEDED = ("distutils", "setuptools", "boto3.session", "botocore.session", "cryptography")
USE_OF_BOTO3 = """
import inspect, pathlib, boto3
assert list(pathlib.Path("lightning_logs").rglob("*tfevents*"))
assert inspect.isfunction(boto3.client) and boto3.Session is sys.modules["boto3.session"].Session
try:
    boto3.no_such_name
except AttributeError as error:
    print(error)
"""


def test_first_fit_imports_and_starts_only_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And boto3, which TensorBoard imports for files in S3, is there for whoever uses it afterwards."""
    monkeypatch.chdir(tmp_path)
    said = run("-c", FIRST_FIT + USE_OF_BOTO3, *NOT_NEEDED).splitlines()
    assert said[-2:] == ["imported []", "module 'boto3' has no attribute 'no_such_name'"]


def test_every_public_name_is_there() -> None:
    shim = importlib.import_module("lightning_shim")
    assert set(shim.__all__) <= set(dir(shim))
    assert [name for name in shim.__all__ if getattr(shim, name, None) is None] == []


def test_unknown_name_is_an_attribute_error() -> None:
    shim = importlib.import_module("lightning_shim")
    with pytest.raises(AttributeError, match=r"'lightning_shim' has no attribute 'patsch'"):
        _ = shim.patsch


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Has a file for each scenario, with how it has ended."""
    folder = tmp_path_factory.mktemp("scenarios")
    run(__file__, str(folder))
    return folder


@pytest.mark.xdist_group("order of imports")
@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(ended: Path, name: str) -> None:
    assert (ended / name).read_text() == "passed"


if __name__ == "__main__":
    run_scenarios(Path(sys.argv[1]))
