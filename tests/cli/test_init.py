"""``init``, in a process of its own and as a user calls it; the YAML files that it writes are what a master accepts."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from determined.common import context
from ruamel.yaml import YAML

import lightning_shim
from lightning_shim.cli.init import template
from tests.cluster.trial import assert_ended_well, run_trial
from tests.configurations.validation import problems
from tests.support.places import place_in

ROOT = Path(lightning_shim.__file__).parents[1]

MODEL = """
    import pytorch_lightning as pl
    import torch
    from torch.utils.data import DataLoader, TensorDataset


    class LitModel(pl.LightningModule):
        def __init__(
            self,
            width: int = 4,  # here: width
            learning_rate=1e-5,
            bias: bool = True,
            activation: str = "on",
            betas=(0.9, 0.999),
            weights=None,
            *,
            layers=[8, "yes"],
        ):
            super().__init__()
            self.save_hyperparameters()
            self.network = torch.nn.Sequential(torch.nn.Linear(2, width, bias=bias), torch.nn.Linear(width, 1))

        def training_step(self, batch, batch_idx):
            loss = self.network(batch[0]).square().mean()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, batch_idx):
            self.log("val_score", 1.0)
            self.log("val_loss", self.network(batch[0]).square().mean())  # here: val_loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=self.hparams.learning_rate)


    class RandomData(pl.LightningDataModule):
        def __init__(self, batch_size: int = 2):
            super().__init__()
            self.batch_size = batch_size

        def train_dataloader(self):
            return DataLoader(TensorDataset(torch.ones(8, 2)), batch_size=self.batch_size)

        def val_dataloader(self):
            return self.train_dataloader()
"""

TRAIN = """
    import argparse

    import model as models
    from pytorch_lightning import Trainer

    print("the script runs")
    SIZE = 4  # here: SIZE


    def main(args):
        module = models.LitModel(args.width, weights=models.RandomData)  # here: made
        trainer = Trainer(max_epochs=3, devices=1, logger=False, enable_checkpointing=False)  # here: Trainer
        trainer.fit(module, models.RandomData(batch_size=SIZE))


    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("--width", type=int, default=6)  # here: width
        main(parser.parse_args())
"""

WRITTEN = ("train_experiment.yaml", "startup-hook.sh", ".detignore")

# Fills a module's validation_step.
IN_VALIDATION = """
    import lightning as L


    class LitModel(L.LightningModule):
        def __init__(self, lr=0.1):
            super().__init__()

        def training_step(self, batch, batch_idx):
            self.log("train_loss", 0.0)

        def _log(self, stage, value=0.0, name="accuracy"):
            self.log(f"{{stage}}_{{name}}", value)

        {validation}


    L.Trainer(max_epochs=1{trainer}).fit(LitModel())
"""


@dataclass(frozen=True)
class Finished:
    """A finished command, and what it has left in its folder."""

    code: int
    out: str
    err: str
    folder: Path

    def configuration(self, name: str) -> dict[str, Any]:
        """Returns a valid configuration; Determined and PyYAML read the same."""
        text = (self.folder / name).read_text()
        configuration: dict[str, Any] = yaml.safe_load(text)
        assert configuration == YAML(typ="safe", pure=True).load(io.StringIO(text))
        assert problems(configuration) == []
        return configuration


def write(folder: Path, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))


def init(folder: Path, *arguments: str, **environment: str) -> Finished:
    """Calls ``init`` in a folder, where Determined and PyTorch cannot be imported: nothing of the user's is run."""
    for name in ("determined", "torch"):
        blocked = folder.parent / "blocked" / name
        blocked.mkdir(parents=True, exist_ok=True)
        (blocked / "__init__.py").write_text("raise ImportError('not to be imported here')\n")
    path = os.pathsep.join([str(folder.parent / "blocked"), str(ROOT)])
    finished = subprocess.run(
        [sys.executable, "-m", "lightning_shim", "init", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
    )
    return Finished(finished.returncode, finished.stdout, finished.stderr, folder)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write(folder, model=MODEL, train=TRAIN)
    return folder


def line(file: Path, marker: str) -> str:
    return f"{file.name}:{place_in(file, marker).rpartition(':')[2]}"


class TestTrainerScript:
    def test_experiment(self, project: Path) -> None:
        finished = init(project, "train.py")
        assert (finished.code, finished.err) == (0, "")
        assert finished.configuration("train_experiment.yaml") == {
            "name": "LitModel",
            "entrypoint": "python3 -m lightning_shim run train.py",
            "hyperparameters": {
                "width": 6,
                "learning_rate": 1e-5,
                "bias": True,
                "activation": "on",
                "layers": [8, "yes"],
                "batch_size": 4,
            },
            "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
            "resources": {"slots_per_trial": 1},
            "max_restarts": 1,
        }

    def test_comments_say_where_values_are_from(self, project: Path) -> None:
        init(project, "train.py")
        text = (project / "train_experiment.yaml").read_text()
        train, model = project / "train.py", project / "model.py"
        assert re.search(rf"^  width: 6 +# {line(train, 'width')}$", text, re.M)
        assert re.search(rf"^  batch_size: 4 +# {line(train, 'SIZE')}$", text, re.M)
        assert re.search(rf"^  metric: val_loss +# {line(model, 'val_loss')}$", text, re.M)
        assert f"#   weights: {line(train, 'made')}: models.RandomData\n" in text
        assert re.search(r"^#   betas: model.py:\d+: \(0.9, 0.999\) \(YAML has no tuple\)$", text, re.M)

    def test_says_what_it_wrote_and_what_is_next(self, project: Path) -> None:
        out = init(project.parent, "project/train.py").out.splitlines()
        assert out[:3] == [
            f"wrote project/{name}" for name in ("train_experiment.yaml", "startup-hook.sh", ".detignore")
        ]
        assert out[-3:-1] == ["next:", f"  pip wheel --no-deps --wheel-dir project {out[-2].rpartition(' ')[2]}"]
        assert out[-1] == "  det experiment create project/train_experiment.yaml project"

    def test_wheel_that_is_there(self, project: Path) -> None:
        (project / "lightning_shim-0.1.0-py3-none-any.whl").touch()
        assert "pip wheel" not in init(project, "train.py").out

    def test_packages_that_the_image_needs(self, project: Path) -> None:
        write(project, data="import os, numpy, timm.models\nfrom einops import rearrange\n")
        with (project / "model.py").open("a") as file:
            file.write("import data\n")
        assert "imported: einops, timm." in init(project, "train.py").out
        (project / "requirements.txt").touch()
        assert "timm" not in init(project, "train.py", "--search").out

    def test_several_devices(self, project: Path) -> None:
        write(project, train=TRAIN.replace("devices=1", "devices=2, num_nodes=2"))
        configuration = init(project, "train.py").configuration("train_experiment.yaml")
        assert configuration["resources"] == {"slots_per_trial": 4}
        launcher = "python3 -m determined.launch.torch_distributed"
        assert configuration["entrypoint"] == f"{launcher} python3 -m lightning_shim run train.py"

    def test_script_that_patches_by_itself(self, project: Path) -> None:
        write(project, train="import lightning_shim\nlightning_shim.patch(trainer=True)\n" + textwrap.dedent(TRAIN))
        assert init(project, "train.py").configuration("train_experiment.yaml")["entrypoint"] == "python3 train.py"

    def test_values_that_differ_are_left_to_the_script(self, project: Path) -> None:
        """As a hyperparameter, a value would take the place of both."""
        call = "models.LitModel(args.width, weights=models.RandomData)"
        write(project, train=TRAIN.replace(call, f"{call}; models.LitModel(bias=False)"))
        hyperparameters = init(project, "train.py").configuration("train_experiment.yaml")["hyperparameters"]
        assert hyperparameters.keys() == {"learning_rate", "activation", "layers", "batch_size"}
        text = (project / "train_experiment.yaml").read_text()
        assert re.search(r"^#   width: train.py:\d+: 6, but model.py:\d+: 4$", text, re.M)

    def test_what_the_monitor_calls_best_comes_first(self, project: Path) -> None:
        script = (
            "from pytorch_lightning.callbacks import ModelCheckpoint as Keep\nKeep(monitor='val_score', mode='max')\n"
        )
        write(project, train=script + textwrap.dedent(TRAIN))
        searcher = init(project, "train.py").configuration("train_experiment.yaml")["searcher"]
        assert searcher == {"name": "single", "metric": "val_score", "smaller_is_better": False}

    def test_context_directory(self, project: Path) -> None:
        """What training has written stays here; the hook, the wheel and the sources go."""
        init(project, "train.py")
        for name in (
            "checkpoints/a.ckpt",
            "determined_checkpoints/e",
            "lightning_logs/b",
            "runs/c",
            "runs.py",
            "src/runs/d.py",
            "lightning_shim-0.whl",
        ):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).touch()
        sent = {file.path for file in context.read_v1_context(project)}
        assert sent - {"src", "src/", "src/runs", "src/runs/"} == {
            "model.py",
            "train.py",
            "train_experiment.yaml",
            "startup-hook.sh",
            "runs.py",
            "src/runs/d.py",
            "lightning_shim-0.whl",
        }


class TestSearch:
    def test_ranges(self, project: Path) -> None:
        finished = init(project, "train.py", "--search")
        configuration = finished.configuration("train_search.yaml")
        assert configuration["hyperparameters"] == {
            "width": {"type": "int", "minval": 3, "maxval": 12},
            "learning_rate": {"type": "log", "base": 10, "minval": -6, "maxval": -4},
            "bias": {"type": "categorical", "vals": [True, False]},
            "activation": "on",
            "layers": [8, "yes"],
            "batch_size": 4,
        }
        assert configuration["searcher"] == {
            "name": "adaptive_asha",
            "metric": "val_loss",
            "smaller_is_better": True,
            "max_trials": 16,
            "time_metric": "epochs",
            "max_time": 3,
        }
        assert "searched: width, learning_rate, bias\n" in finished.out
        assert re.search(r"^  # train.py:\d+: 6\n  width:$", (project / "train_search.yaml").read_text(), re.M)

    @pytest.mark.parametrize(
        ("trainer", "length"),
        [
            ("max_steps=10, accumulate_grad_batches=2", ("batches", 20)),
            ("enable_progress_bar=False", ("epochs", 1000)),
            ("max_epochs=args.epochs", ("epochs", 1)),
        ],
    )
    def test_length(self, project: Path, trainer: str, length: tuple[str, int]) -> None:
        write(project, train=TRAIN.replace("max_epochs=3", trainer))
        finished = init(project, "train.py", "--search")
        searcher = finished.configuration("train_search.yaml")["searcher"]
        assert (searcher["time_metric"], searcher["max_time"]) == length
        is_asked = (
            "fill in, in train_search.yaml: searcher.max_time: for how many epochs train.py trains" in finished.out
        )
        assert is_asked == (length == ("epochs", 1))

    def test_beside_an_experiment(self, project: Path) -> None:
        init(project, "train.py")
        finished = init(project, "train.py", "--search")
        assert finished.code == 0
        assert finished.out.startswith("wrote train_search.yaml\nstartup-hook.sh is there already\n")

    def test_nothing_to_search(self, project: Path) -> None:
        constructor = 'def __init__(self, name="a", seed=3, dropout=0.0): super().__init__()'
        write(project, train=IN_VALIDATION.format(validation=VALIDATIONS["no name"][0], trainer=""))
        text = (project / "train.py").read_text()
        (project / "train.py").write_text(re.sub(r"def __init__.*\n.*", constructor, text))
        finished = init(project, "train.py", "--search")
        assert finished.code == 2
        assert finished.err.startswith("python -m lightning_shim: train.py:5: there is nothing to search for: ")
        assert not (project / "startup-hook.sh").exists()

    def test_without_validation(self, project: Path) -> None:
        write(project, train=IN_VALIDATION.format(validation="", trainer=""))
        finished = init(project, "train.py", "--search")
        assert finished.code == 2
        assert finished.err.startswith("python -m lightning_shim: train.py:5: LitModel has no validation_step, and ")


STEP = "def validation_step(self, batch, batch_idx):"
VALIDATIONS = {
    # What is in the class, the metric, whether less of it is better.
    "another loss": (f"{STEP} self.log('valid_acc', 1); self.log('valid_loss', 1)", "valid_loss", True),
    "camel case": (f"{STEP} self.log('valAccuracy', 1)", "valAccuracy", False),
    "no direction": (f"{STEP} self.log('val_gap', 1)", "val_gap", None),
    "by keyword": (f"{STEP} self.log(name='val/f1', value=1)", "val/f1", False),
    "on step as well": (f"{STEP} self.log('val_loss', 1, on_step=True)", "val_loss_epoch", True),
    "of steps only": (f"{STEP} self.log('val_loss', 1, on_epoch=False); self.log('val_mse', 1)", "val_mse", True),
    "dictionary": (f"{STEP} self.log_dict({{'val_auc': 1, 'val_rmse': 1}})", "val_auc", False),
    "named dictionary": (f"{STEP} d = {{}}; d['val_iou'] = 1; self.log_dict(d)", "val_iou", False),
    "returned": (f"{STEP} return {{'val_error': 1}}", "val_error", True),
    "followed f-string": (f"{STEP} self._log('val')", "val_accuracy", False),
    "followed with a keyword": (f"{STEP} self._log(stage='val', name='perplexity')", "val_perplexity", True),
    "in validation": (
        f"{STEP} s = 'train' if self.training else 'eval'; self.log(s + '_loss', 1)",
        "eval_loss",
        True,
    ),
    "end of the epoch": (
        f"def on_validation_epoch_end(self): self.log('val_kappa', 1)\n        {STEP} pass",
        "val_kappa",
        False,
    ),
    "several loaders": (
        "def validation_step(self, batch, batch_idx, dataloader_idx): self.log('val_loss', 1)",
        "val_loss/dataloader_idx_0",
        True,
    ),
    "no name": (f"{STEP} self.log(str(batch_idx), 1)", None, None),
    "unknown f-string": (f"{STEP} self.log(f'val_{{batch_idx}}', 1)", None, None),
    "unknown dictionary": (f"{STEP} self.log_dict(batch)", None, None),
    "nothing": (f"{STEP} pass", None, None),
    "no validation": ("", None, None),
}


@pytest.mark.parametrize("case", VALIDATIONS)
def test_metric(tmp_path: Path, case: str) -> None:
    validation, metric, smaller_is_better = VALIDATIONS[case]
    write(tmp_path / "project", train=IN_VALIDATION.format(validation=validation, trainer=""))
    finished = init(tmp_path / "project", "train.py")
    assert (finished.code, finished.err) == (0, "")
    searcher = finished.configuration("train_experiment.yaml")["searcher"]
    is_smaller = smaller_is_better is not False
    assert searcher == {"name": "single", "metric": metric or "FILL_IN", "smaller_is_better": is_smaller}
    text = (finished.folder / "train_experiment.yaml").read_text()
    assert ("fill in: a name that the module logs in validation" in text) == (metric is None)
    assert ("fill in: true for a loss or an error, false for an accuracy" in text) == (smaller_is_better is None)
    asked = [name for name, known in (("metric", metric), ("smaller_is_better", smaller_is_better)) if known is None]
    assert re.findall(r"^fill in, in train_experiment.yaml: searcher\.(\w+): ", finished.out, re.M) == asked
    if metric is None:
        # Which line is the reason.
        assert re.search(r"^train.py:\d+: ", finished.out, re.M)
    else:
        assert re.search(rf"^searcher.metric: {metric} \(train.py:\d+\)$", finished.out, re.M)


def test_monitor_of_a_name_that_the_source_does_not_say(tmp_path: Path) -> None:
    trainer = ", callbacks=[L.pytorch.callbacks.EarlyStopping('val_f1', mode='max')]"
    validation = VALIDATIONS["unknown dictionary"][0]
    write(tmp_path / "project", train=IN_VALIDATION.format(validation=validation, trainer=trainer))
    searcher = init(tmp_path / "project", "train.py").configuration("train_experiment.yaml")["searcher"]
    assert searcher == {"name": "single", "metric": "val_f1", "smaller_is_better": False}


class TestLightningCLI:
    SCRIPT = """
        from lightning.pytorch.cli import LightningCLI
        from lightning.pytorch.demos.boring_classes import BoringDataModule, DemoModel


        class Model(DemoModel):
            def __init__(self, out_dim: int = 10, learning_rate: float = 0.02):
                super().__init__(out_dim, learning_rate)

            def validation_step(self, batch, batch_idx):
                self.log("val_loss", self(batch).sum())


        if __name__ == "__main__":
            LightningCLI(Model, BoringDataModule, trainer_defaults={"max_epochs": 7})
    """

    def test_module_of_lightnings(self, tmp_path: Path) -> None:
        """It derives from a class of Lightning's demonstrations, and its file is read as well."""
        write(tmp_path / "project", main=self.SCRIPT)
        finished = init(tmp_path / "project", "main.py", "--search")
        configuration = finished.configuration("main_search.yaml")
        assert configuration["entrypoint"] == "python3 -m lightning_shim run main.py fit"
        assert configuration["hyperparameters"] == {
            "out_dim": 10,
            "learning_rate": {"type": "log", "base": 10, "minval": -3, "maxval": -1},
        }
        assert configuration["searcher"]["max_time"] == 7

    def test_constructor_of_lightnings(self, tmp_path: Path) -> None:
        """No hyperparameter reaches it."""
        write(tmp_path / "project", main=self.SCRIPT.replace("LightningCLI(Model", "LightningCLI(DemoModel"))
        finished = init(tmp_path / "project", "main.py")
        configuration = finished.configuration("main_experiment.yaml")
        assert (configuration["name"], configuration["hyperparameters"]) == ("DemoModel", {})

    def test_values_of_the_configuration_file(self, project: Path) -> None:
        write(project, main="from lightning.pytorch.cli import LightningCLI\nLightningCLI()\n")
        (project / "config.yaml").write_text(
            "model: {class_path: model.LitModel, init_args: {width: 9}}\n"
            "data: {class_path: model.RandomData}\n"
            "trainer: {max_epochs: 4, devices: 2}\n"
        )
        finished = init(project, "main.py", "--search")
        assert finished.err == ""
        configuration = finished.configuration("main_search.yaml")
        assert configuration["entrypoint"].endswith(" -m lightning_shim run main.py fit --config config.yaml")
        assert configuration["hyperparameters"]["width"] == {"type": "int", "minval": 4, "maxval": 18}
        assert configuration["hyperparameters"]["bias"] == {"type": "categorical", "vals": [True, False]}
        assert (configuration["searcher"]["max_time"], configuration["resources"]["slots_per_trial"]) == (4, 2)

    def test_unreadable_configuration_file(self, project: Path) -> None:
        write(project, main="from lightning.pytorch.cli import LightningCLI\nLightningCLI()\n")
        (project / "config.yaml").write_text("model: {a: [\n")
        finished = init(project, "main.py")
        assert finished.code == 2
        assert finished.err.startswith("python -m lightning_shim: config.yaml cannot be read: ")
        assert "line 2" in finished.err


class TestFit:
    SCRIPT = """
        import lightning_shim

        lightning_shim.patch()

        from determined.pytorch import Batch
        from model import *

        lightning_shim.fit({arguments}, max_length=Batch(32), hparams={{"width": 5}})
    """

    def test_classes(self, project: Path) -> None:
        write(project, model_def=self.SCRIPT.format(arguments="LitModel, datamodule=RandomData"))
        configuration = init(project, "model_def.py", "--search").configuration("model_def_search.yaml")
        assert configuration["entrypoint"] == "python3 model_def.py"
        assert configuration["hyperparameters"]["width"] == {"type": "int", "minval": 2, "maxval": 10}
        assert configuration["hyperparameters"]["batch_size"] == 2
        assert (configuration["searcher"]["time_metric"], configuration["searcher"]["max_time"]) == ("batches", 32)

    def test_objects_get_no_hyperparameters(self, project: Path) -> None:
        write(project, model_def=self.SCRIPT.format(arguments="LitModel(3), datamodule=RandomData"))
        configuration = init(project, "model_def.py").configuration("model_def_experiment.yaml")
        assert configuration["hyperparameters"] == {"batch_size": 2}

    def test_parameter_without_default(self, project: Path) -> None:
        write(project, model=MODEL.replace("batch_size: int = 2", "batch_size"))
        write(project, model_def=self.SCRIPT.format(arguments="LitModel, datamodule=RandomData"))
        out = init(project, "model_def.py").out
        assert re.search(
            r"^fill in, in model_def_experiment.yaml: hyperparameters.batch_size: model.py:\d+ needs it", out, re.M
        )

    def test_older_entry_point(self, project: Path) -> None:
        write(
            project,
            model_def="import lightning_shim\nfrom model import LitModel\n"
            "class Trial(lightning_shim.LightningTrial): pass\n",
        )
        finished = init(project, "model_def.py")
        assert finished.code == 2
        assert "model_def.py defines a LightningTrial and trains nothing by itself: call" in finished.err


class TestModuleAlone:
    def test_trains(self, project: Path) -> None:
        """The script that is written trains as it stands, off-cluster."""
        finished = init(project, "model.py:LitModel")
        assert finished.out.startswith("wrote model_def.py\nwrote model_def_experiment.yaml\n")
        configuration = finished.configuration("model_def_experiment.yaml")
        assert configuration["entrypoint"] == "python3 model_def.py"
        assert configuration["hyperparameters"]["batch_size"] == 2
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "model_def.py"], cwd=project, env=environment, check=True, capture_output=True)
        assert list((project / "determined_checkpoints").rglob("state_dict.pth"))

    def test_without_data(self, project: Path) -> None:
        write(project, model=MODEL.partition("    class RandomData")[0])
        finished = init(project, "model.py:LitModel")
        assert finished.code == 2
        assert finished.err.startswith("python -m lightning_shim: model.py:7: nothing says what to train LitModel on: ")

    def test_existing_script(self, project: Path) -> None:
        write(project, model_def="")
        finished = init(project, "model.py:LitModel")
        assert finished.code == 2
        assert finished.err == (
            "python -m lightning_shim: model_def.py exists, and nothing is overwritten: no file was written. Move away "
            "or remove what is there, and call init again.\n"
        )
        assert (project / "model_def.py").read_text() == ""


def test_nested_hyperparameters(project: Path) -> None:
    default = '{"lr": 0.1, "momentum": 0.9, "name": "sgd", "steps": [1, 2]}'
    write(project, model=MODEL.replace("weights=None", f"optimizer={default}, other={{'type': 'a'}}"))
    write(project, train=TRAIN.replace(", weights=models.RandomData", ""))
    hyperparameters = init(project, "train.py").configuration("train_experiment.yaml")["hyperparameters"]
    assert hyperparameters["optimizer"] == {"lr": 0.1, "momentum": 0.9, "name": "sgd", "steps": [1, 2]}
    # Determined would take it for the description of a range.
    assert "other" not in hyperparameters
    searched = init(project, "train.py", "--search").configuration("train_search.yaml")["hyperparameters"]["optimizer"]
    assert searched == {
        "lr": {"type": "log", "base": 10, "minval": -2, "maxval": 0},
        "momentum": {"type": "double", "minval": 0.45, "maxval": 0.95},
        "name": "sgd",
        "steps": [1, 2],
    }


class TestOverwritesNothing:
    @pytest.mark.parametrize("name", ["train_experiment.yaml", "startup-hook.sh", ".detignore"])
    def test_file_of_the_users(self, project: Path, name: str) -> None:
        (project / name).write_text("mine")
        finished = init(project, "train.py")
        assert (finished.code, finished.out) == (2, "")
        assert finished.err.startswith(f"python -m lightning_shim: {name} exists, and nothing is overwritten")
        assert (project / name).read_text() == "mine"
        assert {file.name for file in project.iterdir()} == {"model.py", "train.py", name}

    def test_twice(self, project: Path) -> None:
        init(project, "train.py")
        assert init(project, "train.py").code == 2

    def test_read_only_folder(self, project: Path) -> None:
        if os.geteuid() == 0:
            # Nothing is read-only for root; a folder in the place of a file cannot be written either.
            (project / ".detignore").mkdir()
            assert init(project, "train.py").err.startswith("python -m lightning_shim: .detignore exists, ")
        else:
            project.chmod(0o500)
            finished = init(project, "train.py")
            project.chmod(0o700)
            assert finished.err.startswith("python -m lightning_shim: train_experiment.yaml cannot be written: ")


CANNOT = {
    "no_such_file.py": "there is no file no_such_file.py. Name the script that trains: lightning_shim init train.py",
    "notes.txt": "notes.txt is not a Python file. Name the script that trains: lightning_shim init train.py",
    "train.py:No Name": "No Name is not the name of a class.",
    "train.py:NoSuchModel": "train.py has no LightningModule NoSuchModel.",
    "train.py:models.RandomData": "train.py has no LightningModule models.RandomData.",
    "broken.py": "broken.py:2: '(' was never closed. Correct the line: Python cannot read the file either.",
    "imports_broken.py": "broken.py:2: '(' was never closed. Correct the line: Python cannot read the file either.",
    "nothing.py": "nothing.py: neither it nor the files that it imports have a LightningModule. Name the script that "
    "trains one: lightning_shim init train.py",
    "two.py": "two.py may train any of One (two.py:3), Two (two.py:4). Say which one: two.py:One",
}


@pytest.mark.parametrize("target", CANNOT)
def test_cannot(project: Path, target: str) -> None:
    write(
        project,
        broken="import torch\ntorch.ones(\n",
        imports_broken="import broken\n",
        nothing="class LitModel: pass\n",
        two="import lightning as L\n\nclass One(L.LightningModule): pass\nclass Two(L.LightningModule): pass\n"
        "L.Trainer().fit(globals()['One']())\n",
    )
    (project / "notes.txt").touch()
    finished = init(project, target)
    assert (finished.code, finished.out) == (2, "")
    assert finished.err == f"python -m lightning_shim: {CANNOT[target]}\n"
    assert not (project / "startup-hook.sh").exists()


def test_which_of_several(project: Path) -> None:
    write(project, model=MODEL + "\n\n    class Other(LitModel):\n        pass\n")
    write(project, train=TRAIN.replace("models.LitModel(args", "getattr(models, 'Other')(args"))
    assert init(project, "train.py:models.Other").configuration("train_experiment.yaml")["name"] == "Other"


def test_package_with_relative_imports(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write(folder, train="from lit import Model\nimport lightning as L\nL.Trainer(max_epochs=1).fit(Model())\n")
    write(folder / "lit", __init__="from .models import LitModel as Model\n", models="from .base.core import *\n")
    core = IN_VALIDATION.format(validation=VALIDATIONS["camel case"][0], trainer="").partition("    L.Trainer")[0]
    write(folder / "lit" / "base", core=core)
    finished = init(folder, "train.py")
    configuration = finished.configuration("train_experiment.yaml")
    assert (configuration["searcher"]["metric"], configuration["hyperparameters"]) == ("valAccuracy", {"lr": 0.1})
    assert "lit/base/core.py:" in finished.out


class TestStartupHook:
    @pytest.mark.parametrize("example", ["mnist", "gan"])
    def test_is_that_of_the_examples(self, example: str) -> None:
        """Which install what the package's extra names in the place of a requirements.txt."""
        hook = (ROOT / "examples" / example / "startup-hook.sh").read_text()
        assert hook == template("startup-hook.sh").replace('"$wheel" $', '"$wheel[examples]" $')

    @pytest.mark.parametrize("has_requirements", [False, True])
    def test_installs(self, project: Path, has_requirements: bool) -> None:
        """As Determined sources it; pip is one that says what it is asked for."""
        init(project, "train.py")
        (project / "lightning_shim-0.1.0-py3-none-any.whl").touch()
        if has_requirements:
            (project / "requirements.txt").touch()
        pip = project.parent / "pip"
        printing = "print(*sys.argv[1 : place + 1], open(sys.argv[place + 1]).read().strip(), *sys.argv[place + 2 :])"
        write(pip, pip=f"import sys\nplace = sys.argv.index('--constraint')\n{printing}\n")
        finished = subprocess.run(
            ["bash", "-c", "set -e; source startup-hook.sh"],
            cwd=project,
            env={
                **os.environ,
                "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
                "PYTHONPATH": str(pip),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        wheel, torch = "lightning_shim-0.1.0-py3-none-any.whl", version("torch")
        requirements = " --requirement requirements.txt" if has_requirements else ""
        assert finished.stdout == (
            f"install --quiet --disable-pip-version-check --root-user-action ignore --constraint torch=={torch} "
            f"./{wheel}{requirements}\n"
            f"startup-hook.sh: installed {wheel} with what it needs, beside the image's own torch {torch}.\n"
        )


def test_experiment_runs_on_a_cluster(project: Path, tmp_path: Path) -> None:
    """The files that are written, in the container of a trial."""
    finished = init(project, "train.py")
    configuration = finished.configuration("train_experiment.yaml")
    (tmp_path / "trial").mkdir()
    trial = run_trial(
        tmp_path / "trial", configuration, {file.name: file.read_text() for file in project.iterdir() if file.is_file()}
    )
    assert_ended_well(trial)
    # Eight samples by the script's batch size of four, three times.
    assert sorted(trial.master.metrics("validation")) == [2, 4, 6]
    assert configuration["searcher"]["metric"] in trial.master.metrics("validation")[6]
    # The values are the script's own, so that nothing is said to change but what is written another way.
    assert "gets the trial's" not in trial.log
    assert "have no effect" not in trial.log
