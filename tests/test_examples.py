"""The MNIST example: a plain Lightning module, and experiment configurations that fit it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml

EXAMPLE = Path(__file__).parents[1] / "examples" / "mnist"
CONFIGURATIONS = ["const.yaml", "adaptive.yaml", "distributed.yaml"]


@pytest.fixture(scope="module")
def model() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mnist_example_model", EXAMPLE / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lightning_trainer(model: ModuleType) -> pl.Trainer:
    """Lightning's own Trainer, after a short training of the example."""
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=20,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    torch.manual_seed(0)
    trainer.fit(model.LitMNIST(), datamodule=model.MNISTDataModule())
    return trainer


@pytest.fixture
def parameters(model: ModuleType) -> dict[str, Any]:
    """The example's hyperparameters: what both constructors take, with the defaults."""
    return {
        name: parameter.default
        for constructor in (model.LitMNIST, model.MNISTDataModule)
        for name, parameter in inspect.signature(constructor).parameters.items()
    }


def read(configuration: str) -> dict[str, Any]:
    contents = yaml.safe_load((EXAMPLE / configuration).read_text())
    assert isinstance(contents, dict)
    return contents


def length_in_model_def() -> tuple[str, int]:
    """The unit and the number of model_def.py's `max_length=pytorch.Epoch(5)`."""
    for node in ast.walk(ast.parse((EXAMPLE / "model_def.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "max_length":
            call = node.value
            assert isinstance(call, ast.Call)
            assert isinstance(call.func, ast.Attribute)
            return call.func.attr, ast.literal_eval(call.args[0])
    raise AssertionError("model_def.py passes no max_length")


class TestModel:
    @pytest.mark.parametrize("word", ["lightning_shim", "lightning-shim", "monkey_patch", "determined"])
    def test_does_not_contain(self, word: str) -> None:
        assert word not in (EXAMPLE / "model.py").read_text().lower()

    def test_imports_lightning_torch_and_the_data_alone(self) -> None:
        imported: set[str] = set()
        for node in ast.walk(ast.parse((EXAMPLE / "model.py").read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                imported.add(node.module.partition(".")[0])
        assert imported == {"mlxtend", "pytorch_lightning", "torch"}

    def test_learns_under_lightnings_trainer(self, lightning_trainer: pl.Trainer) -> None:
        # Twenty batches are enough to tell it from guessing, which is right one time in ten.
        assert lightning_trainer.callback_metrics["val_accuracy"] > 0.5

    def test_holds_out_a_fifth_of_each_digit(self, model: ModuleType) -> None:
        data = model.MNISTDataModule()
        data.setup("fit")
        assert torch.bincount(data.train_set.tensors[1]).tolist() == [400] * 10
        assert torch.bincount(data.val_set.tensors[1]).tolist() == [100] * 10


class TestConfigurations:
    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_runs_the_script(self, configuration: str) -> None:
        *command, script = read(configuration)["entrypoint"].split()
        assert command[0] == "python3"
        assert (EXAMPLE / script).is_file()

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_has_no_field_that_determined_deprecates(self, configuration: str) -> None:
        contents = read(configuration)
        assert contents.keys() <= {"name", "entrypoint", "hyperparameters", "searcher", "resources"}
        assert contents["searcher"].keys() <= {
            "name",
            "metric",
            "smaller_is_better",
            "max_trials",
            "max_time",
            "time_metric",
        }

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_hyperparameters_are_the_constructors_parameters(
        self, configuration: str, parameters: dict[str, Any]
    ) -> None:
        assert read(configuration)["hyperparameters"].keys() == parameters.keys()

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_searches_by_a_metric_of_validation(self, configuration: str, lightning_trainer: pl.Trainer) -> None:
        searcher = read(configuration)["searcher"]
        assert searcher["metric"] in lightning_trainer.callback_metrics
        assert searcher["metric"].startswith("val_")
        assert searcher["smaller_is_better"] is ("loss" in searcher["metric"])

    def test_const_has_the_hyperparameters_of_a_run_without_a_cluster(self, parameters: dict[str, Any]) -> None:
        assert read("const.yaml")["hyperparameters"] == parameters

    def test_search_ends_where_the_training_ends(self) -> None:
        searcher = read("adaptive.yaml")["searcher"]
        unit = {"epochs": "Epoch", "batches": "Batch"}[searcher["time_metric"]]
        assert (unit, searcher["max_time"]) == length_in_model_def()

    def test_search_starts_trials_that_the_model_takes(self, model: ModuleType) -> None:
        hyperparameters = read("adaptive.yaml")["hyperparameters"]
        for bound in ("minval", "maxval"):
            module = model.LitMNIST(
                channels=hyperparameters["channels"][bound], dropout=hyperparameters["dropout"][bound]
            )
            assert module(torch.zeros(2, 1, 28, 28)).shape == (2, 10)

    def test_several_slots_need_the_launcher(self) -> None:
        contents = read("distributed.yaml")
        assert contents["resources"]["slots_per_trial"] > 1
        assert contents["entrypoint"].startswith("python3 -m determined.launch.torch_distributed ")
