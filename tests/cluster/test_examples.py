"""Examples as managed trials: their own scripts, by their own configurations, in small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import yaml
from determined import pytorch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_shim
from tests.cluster.master import CLUSTER_ID, EXPERIMENT_ID, TRIAL_ID
from tests.cluster.trial import Trial, assert_ended_well, run_trial
from tests.examples.test_examples import EXAMPLES, MODELS
from tests.parity.oracle import assert_same

EPOCHS = 5
BATCH_SIZE = 500
BATCHES = EPOCHS * 4000 // BATCH_SIZE


def run(folder: Path, configuration: str) -> Trial:
    """Runs an example with a small network and large batches."""
    contents = yaml.safe_load((EXAMPLES / configuration).read_text())
    contents["hyperparameters"] |= {"channels": 2, "batch_size": BATCH_SIZE}
    files = (EXAMPLES / configuration).parent.glob("*.py")
    trial = run_trial(folder, contents, {file.name: file.read_text() for file in files}, seed=0)
    assert_ended_well(trial)
    return trial


def fit(trial: Trial, module: type, datamodule: type) -> dict[str, Any]:
    """Returns the weights of the same training in this process."""
    with lightning_shim.patched():
        fitted = lightning_shim.fit(
            module,
            datamodule=datamodule,
            max_length=pytorch.Epoch(EPOCHS),
            validation_period=pytorch.Epoch(1),
            hparams=trial.master.config["hyperparameters"],
            seed=0,
            checkpoint_policy="none",
        )
    return dict(fitted.module.state_dict())


def test_classic_entrypoint(tmp_path: Path) -> None:
    model = MODELS["mnist"]
    trial = run(tmp_path, "mnist/classic.yaml")
    assert sorted(trial.master.metrics("validation")) == list(range(8, BATCHES + 1, 8))
    weights = trial.checkpoint(BATCHES)["state_dict"]
    assert_same(weights, fit(trial, model.LitMNIST, model.MNISTDataModule))
    assert trial.master.metrics("validation")[BATCHES]["val_accuracy"] > 0.3


def test_script(tmp_path: Path) -> None:
    """Which trains what Lightning trains with the trial's hyperparameters."""
    model = MODELS["mnist"]
    trial = run(tmp_path, "mnist/script.yaml")
    hyperparameters = dict(trial.master.config["hyperparameters"])
    pl.seed_everything(0)
    datamodule = model.MNISTDataModule(hyperparameters.pop("batch_size"))
    module = model.LitMNIST(**hyperparameters)
    trainer = pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(module, datamodule=datamodule)
    assert_same(trial.checkpoint(BATCHES)["state_dict"], module.state_dict())
    validations = trial.master.metrics("validation")
    assert sorted(validations) == list(range(8, BATCHES + 1, 8))
    [validated] = trial.master.metrics("validate").values()
    assert validated["val_accuracy"] == max(each["val_accuracy"] for each in validations.values())


def test_gan_on_two_slots(tmp_path: Path) -> None:
    trial = run(tmp_path, "gan/distributed.yaml")
    per_process = BATCHES // 2
    validations = trial.master.metrics("validation")
    assert sorted(validations) == list(range(4, per_process + 1, 4))
    assert validations[per_process]["val_distance"] < validations[4]["val_distance"]
    assert trial.master.metrics("training")[per_process].keys() >= {"generator_loss_epoch", "discriminator_loss_epoch"}
    folder = trial.storage / CLUSTER_ID / f"tensorboard/experiment/{EXPERIMENT_ID}/trial/{TRIAL_ID}"
    images = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload().Images("generated")
    # Both optimizers' steps count, and the sanity check draws images too.
    assert [image.step for image in images] == [0, *(2 * steps for steps in sorted(validations))]
