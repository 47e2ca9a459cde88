"""Errors, warnings, checkpoints and files of trials on a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytorch_lightning as pl
import torch

from tests.e2e.scripts.model import LitData, LitModel, digest
from tests.e2e.submission import EPOCH_LENGTH, FIT, LENGTH, SCRIPT, Cluster, experiment


def test_wrong_metric(cluster: Cluster) -> None:
    """The error names the metrics that there are."""
    searcher = {"name": "single", "metric": "accuracy", "smaller_is_better": False}
    [trial] = cluster.run(experiment(FIT, searcher=searcher))
    assert trial.state == "ERROR"
    assert re.search(r"Error: .*'accuracy'.*'val_loss'", trial.log)
    assert trial.checkpoints == {}


def test_refused_module(cluster: Cluster) -> None:
    [trial] = cluster.run(experiment(f"REFUSED=1 {FIT}"))
    assert trial.state == "ERROR"
    assert re.search(r"RefusedMemberError: .*model\.py:\d+: LitModel\.configure_apex is refused: ", trial.log)
    assert trial.metrics == {}


def test_fit(cluster: Cluster, tmp_path: Path) -> None:
    """Warnings with file and line, TensorBoard's files, and a checkpoint that Lightning loads and goes on from."""
    [trial] = cluster.run(experiment(FIT))
    assert trial.state == "COMPLETED"
    warned = re.findall(r"model\.py:\d+: IgnoredMemberWarning: LitModel\.test_step is ignored: ", trial.log)
    assert len(warned) == 1
    assert {"train_loss", "val_loss"} <= {tag.rsplit("/")[-1] for tag in trial.tensorboard_tags()}
    file = trial.download(trial.checkpoints[LENGTH], tmp_path / "checkpoint") / "state_dict.pth"
    module = LitModel.load_from_checkpoint(file, weights_only=False)
    assert digest(module.state_dict()) == trial.said("weights at the end")[-1]
    trainer = pl.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(module, LitData(), ckpt_path=file)
    assert trainer.global_step == LENGTH + EPOCH_LENGTH
    assert all(torch.isfinite(parameter).all() for parameter in module.parameters())


def test_warm_start(cluster: Cluster) -> None:
    """With the weights of another trial, and nothing else."""
    [source] = cluster.run(experiment(SCRIPT))
    searcher = {"name": "single", "metric": "val_loss", "smaller_is_better": True, "source_trial_id": source.trial_id}
    [trial] = cluster.run(experiment(SCRIPT, searcher=searcher))
    assert trial.state == "COMPLETED"
    assert len(re.findall("the weights are those of the checkpoint .*, of another trial", trial.log)) == 1
    assert sorted(trial.metrics["training"]) == list(range(1, LENGTH + 1))
    # The best of the source's checkpoints has been kept, which is the last one.
    assert trial.said("weights at the start") == source.said("weights at the end")


def test_script_tests_its_best_checkpoint_on_several_slots(cluster: Cluster) -> None:
    """On several agents where none has so many slots: each process loads the file that rank 0 has written."""
    [trial] = cluster.run(experiment(SCRIPT, slots=cluster.slots))
    assert trial.state == "COMPLETED"
    tested = dict(re.findall(r"rank (\d+) tests (\w+)", trial.log))
    assert sorted(map(int, tested)) == list(range(cluster.slots))
    assert len(set(tested.values())) == 1
    [metrics] = trial.metrics["test"].values()
    assert metrics["test_loss"] > 0
