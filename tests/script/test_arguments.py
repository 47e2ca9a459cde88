"""Each argument of Lightning's Trainer does in a script what the table says of it."""

from __future__ import annotations

import inspect
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import LayerSync, TorchCheckpointIO
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy

import lightning_shim
from lightning_shim.members.member import Support
from lightning_shim.members.trainer_arguments import ARGUMENTS
from tests.parity.oracle import assert_same
from tests.script.conftest import ByPython
from tests.script.scripts.cases import CASES
from tests.script.test_scripts import results

pytestmark = pytest.mark.xdist_group("a script's arguments")

PARAMETERS = inspect.signature(pl.Trainer).parameters

IGNORED: dict[str, Any] = {
    "accelerator": "tpu",
    "devices": 3,
    "num_nodes": 2,
    "model_registry": "model",
}
# Other tests have them.
ELSEWHERE = {"limit_test_batches", "limit_predict_batches", "logger", "use_distributed_sampler", "plugins"}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, by_python: ByPython) -> list[Any]:
    return results(by_python, tmp_path_factory.mktemp("arguments"), "arguments.py")


@pytest.mark.parametrize("case", CASES)
def test_is_lightnings(both: list[Any], case: str) -> None:
    actual, expected = both
    assert_same(actual[case], expected[case])


def test_cases_differ(both: list[Any]) -> None:
    """Otherwise they could not tell whether an argument has an effect."""
    _, expected = both
    effects = {"weights", "random", "validated", "logged_metrics", "step", "path", "switches", "deterministic"}
    seen = {
        case: str({name: str(value) for name, value in expected[case].items() if name in effects}) for case in expected
    }
    alike = {case for case in seen if case != "default" and seen[case] == seen["default"]}
    # What only a GPU, several processes or the eye could tell.
    assert alike <= {
        "epochs before steps",
        "log_every_n_steps",
        "no loggers' steps",
        "inference_mode",
        "max_time",
        "one process",
        "profiler",
        "whole sanity check",
        "no sanity check",
    }


def test_every_argument_is_tried() -> None:
    tried = {name for arguments in CASES.values() for name in arguments}
    # An older Lightning has fewer.
    assert [name for name in ARGUMENTS if name in PARAMETERS] == list(PARAMETERS)
    assert PARAMETERS.keys() <= tried | IGNORED.keys() | ELSEWHERE <= ARGUMENTS.keys()
    assert not {name for name, row in ARGUMENTS.items() if row.support is Support.REFUSED}
    assert {name for name, row in ARGUMENTS.items() if row.support is Support.IGNORED} == IGNORED.keys()


@pytest.mark.usefixtures("_scripts")
@pytest.mark.parametrize("name", [name for name in IGNORED if name in PARAMETERS])
def test_is_ignored_with_a_warning(name: str) -> None:
    with pytest.warns(lightning_shim.DifferenceWarning, match=rf"^Trainer\({name}=.* is ignored: ") as warnings:
        trainer = pl.Trainer(**{name: IGNORED[name]}, logger=False)
    assert warnings[0].filename == __file__
    assert (trainer.num_devices, trainer.num_nodes, trainer.world_size) == (1, 1, 1)


@pytest.mark.usefixtures("_scripts")
def test_environment_gives_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_TRAINER_LOGGER", "False")
    monkeypatch.setenv("PL_TRAINER_STRATEGY", "ddp")
    monkeypatch.setenv("PL_TRAINER_MAX_STEPS", "7")
    trainer = pl.Trainer(max_steps=6)
    assert (trainer.logger, type(trainer.strategy), trainer.max_steps) == (None, DDPStrategy, 6)
    monkeypatch.setenv("PL_TRAINER_STRATEGY", "fsdp")
    with pytest.raises(lightning_shim.ConfigurationError, match=r"'fsdp'.*is refused"):
        pl.Trainer()


@pytest.mark.parametrize(
    "arguments",
    [
        {"accelerator": "invalid"},
        *({"accelerator": "cpu", "devices": devices} for devices in (0, "0", [], "abc", -1, [1])),
        {"accelerator": "gpu", "devices": 0},
        {"accelerator": "cpu", "num_nodes": 0},
        {"accelerator": "cpu", "plugins": [TorchCheckpointIO(), TorchCheckpointIO()]},
        {"accelerator": "cpu", "plugins": [LightningEnvironment(), LightningEnvironment()]},
        {"accelerator": "cpu", "plugins": [mock.Mock(spec=LayerSync)], "sync_batchnorm": True},
        {"accelerator": "cuda", "strategy": DDPStrategy(parallel_devices=[torch.device("cpu")])},
    ],
)
def test_what_no_machine_could_do_is_lightnings_error(
    arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # For gpu Lightning would otherwise say that there is none.
    monkeypatch.setattr(pl.accelerators.CUDAAccelerator, "is_available", lambda: True)
    errors = []
    for trainer in (False, True):
        with lightning_shim.patched(trainer=trainer), pytest.raises(Exception, match=r".") as error:
            pl.Trainer(logger=False, **arguments)
        errors.append((error.type, str(error.value)))
    assert errors[0] == errors[1]


@pytest.mark.usefixtures("_scripts")
@pytest.mark.parametrize("devices", [[0, "1"], "a,b", [False]], ids=str)
def test_devices_are_of_lightnings_types(devices: Any) -> None:
    """As its own, which looks at them if there are GPUs."""
    with pytest.raises((TypeError, ValueError), match="int"):
        pl.Trainer(accelerator="gpu", devices=devices, logger=False)


@pytest.mark.usefixtures("_scripts")
def test_what_lightning_does_not_know_is_lightnings_error() -> None:
    with pytest.raises(TypeError, match="max_epoch"):
        pl.Trainer(max_epoch=3)  # type: ignore[call-arg]  # the point
