"""A trial as a cluster runs it: real processes, Determined's own launchers, and a stand-in for the master."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from determined.common import api
from determined.common.api import errors
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.cluster import trial as trials
from tests.cluster.master import CLUSTER_ID, EXPERIMENT_ID, TRIAL_ID, Master
from tests.cluster.trial import Trial, assert_ended_well
from tests.parity.oracle import assert_same
from tests.support.repository import REPOSITORY

pytestmark = pytest.mark.xdist_group("managed trial")

EPOCH_LENGTH = 6
MAX_LENGTH = 3 * EPOCH_LENGTH
VALIDATION_PERIOD = 4
EPOCH_VALUES = {"train_loss_epoch", "loss_of_all", "ended_epoch"}
VALIDATIONS = [4, 8, 12, 16, 18]
# After the first epoch's last batch, when no validation is due; in the middle of an epoch; and after an epoch's last
# batch and its validation.
PAUSES = (6, 9, 12)
# With those of PyTorch 2.3 the first validation is the best, and the test could not tell what it is about.
WITH_NUMBERS_OF_NEWER_TORCH = pytest.mark.torch(">=2.4")
# Of two processes, each trains on half of the batches. They step every other batch, and pause between.
DISTRIBUTED_LENGTH = MAX_LENGTH // 2
DISTRIBUTED_PAUSE = 4

MODEL_DEF = f"""
import lightning_shim; lightning_shim.patch()

import logging
import os
import random

import determined as det
import numpy as np
import pytorch_lightning as pl
import torch
from determined import pytorch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset


def dataset(samples, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 5, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))


class LitModel(pl.LightningModule):
    def __init__(self, dropout, lr):
        super().__init__()
        if lr < 0:
            raise det.InvalidHP("the learning rate is negative")
        self.save_hyperparameters()
        self.losses = []
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1)
        )

    def loss(self, batch):
        inputs, targets = batch
        return torch.nn.functional.mse_loss(self.layers(inputs), targets)

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        if self.global_step == 2 and os.environ.get("BROKEN_RANK") == str(self.global_rank):
            raise ValueError("the batch is broken")
        self.losses.append(loss.item())
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        self.log("loss_of_all", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_epoch_end(self):
        self.log("ended_epoch", float(self.current_epoch))

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def finish(self):
        self.trainer.test(self)

    if "REFUSED" in os.environ:

        def configure_apex(self, amp, model, optimizers, amp_level):
            return model, optimizers

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


class LitData(pl.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(dataset(22, seed=1), batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(dataset(10, seed=2), batch_size=4)


class MyTrial(lightning_shim.LightningTrial):
    def build_module(self):
        return LitModel

    def build_datamodule(self):
        return LitData


# What a user has of ModelCheckpoint when the training has ended; paths as seen from the working directory.
def models(callback):
    return {{
        "best": os.path.relpath(callback.best_model_path),
        "best_score": callback.best_model_score.item(),
        "scores": {{os.path.relpath(path): score.item() for path, score in callback.best_k_models.items()}},
        "weights": {{
            os.path.relpath(path): LitModel.load_from_checkpoint(path).state_dict() for path in callback.best_k_models
        }},
        "files": sorted(os.listdir(callback.dirpath)),
    }}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format=det.LOG_FORMAT)
    data = LitData()
    info = det.get_cluster_info()
    trial = lightning_shim.fit(
        LitModel,
        data.train_dataloader(),
        data.val_dataloader(),
        # For runs off-cluster.
        hparams={{"dropout": 0.5, "lr": 0.001}},
        max_length=pytorch.Epoch({MAX_LENGTH // EPOCH_LENGTH}),
        validation_period=pytorch.Batch({VALIDATION_PERIOD}),
        reporting_period=pytorch.Batch(1),
        callbacks=ModelCheckpoint(monitor="val_loss", mode="max", save_top_k=2),
        **(info.user_data if info is not None else {{}}),
    )
    results = {{
        "weights": trial.module.state_dict(),
        "hparams": dict(trial.module.hparams),
        "losses": trial.module.losses,
        "val_loss": trial.module.eval().loss(dataset(10, seed=2).tensors).item(),
        "random": {{
            "cpu_rng_state": torch.get_rng_state(),
            "np_rng_state": np.random.get_state(),
            "random_rng_state": random.getstate(),
        }},
        "models": models(trial.trainer.checkpoint_callback),
    }}
    torch.save(results, f"results-{{os.environ.get('RANK', 0)}}.pt")
"""

RunTrial = Callable[..., Trial]
TWO_PROCESSES = {
    "entrypoint": "python3 -m determined.launch.torch_distributed python3 model_def.py",
    "slots": 2,
    "data": {"accumulate_grad_batches": 2},
}


@pytest.fixture(scope="module")
def run_trial(tmp_path_factory: pytest.TempPathFactory) -> RunTrial:
    """Gives a function that runs a trial of the module above."""

    def run_trial(
        *,
        entrypoint: str = "python3 model_def.py",
        slots: int = 1,
        searcher: dict[str, Any] | None = None,
        hparams: dict[str, Any] | None = None,
        seed: int = 3,
        pauses: tuple[int, ...] = (),
        **config: Any,
    ) -> Trial:
        values = {"dropout": 0.25, "lr": 0.3, **(hparams or {})}
        configuration = {
            "name": "a trial",
            "entrypoint": entrypoint,
            "hyperparameters": {name: {"type": "const", "val": value} for name, value in values.items()},
            "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True, **(searcher or {})},
            "resources": {"slots_per_trial": slots},
            **config,
        }
        context = {"model_def.py": MODEL_DEF}
        return trials.run_trial(tmp_path_factory.mktemp("trial"), configuration, context, seed=seed, pauses=pauses)

    return run_trial


@pytest.fixture(scope="module")
def uninterrupted(run_trial: RunTrial) -> Trial:
    return run_trial()


@pytest.fixture(scope="module")
def paused(run_trial: RunTrial) -> Trial:
    return run_trial(pauses=PAUSES)


@pytest.fixture(scope="module")
def larger_is_better(run_trial: RunTrial) -> Trial:
    return run_trial(searcher={"smaller_is_better": False}, seed=4)


@pytest.fixture(scope="module")
def classic(run_trial: RunTrial) -> Trial:
    return run_trial(
        entrypoint="model_def:MyTrial",
        searcher={"max_length": {"epochs": MAX_LENGTH // EPOCH_LENGTH}},
        min_validation_period={"batches": VALIDATION_PERIOD},
        scheduling_unit=1,
    )


@pytest.fixture(scope="module")
def distributed(run_trial: RunTrial) -> Trial:
    return run_trial(**TWO_PROCESSES)


@pytest.fixture(scope="module")
def paused_distributed(run_trial: RunTrial) -> Trial:
    return run_trial(**TWO_PROCESSES, pauses=(DISTRIBUTED_PAUSE,))


@pytest.fixture(scope="module")
def invalid(run_trial: RunTrial) -> Trial:
    return run_trial(hparams={"lr": -1.0})


def assert_same_random_state(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for name, state in expected.items():
        # NumPy's state has an array in it.
        if name == "np_rng_state":
            np.testing.assert_equal(actual[name], state)
        else:
            assert_same(actual[name], state, name)


def steps_of(path: str) -> int:
    """Returns the number in the name of a file of ModelCheckpoint's."""
    return int(path.rpartition("step=")[2].removesuffix(".ckpt"))


def lines_of(trial: Trial) -> list[str]:
    """Returns the lines about the training; where a checkpoint is differs."""
    return [line.partition("checkpoint: ")[0] for line in re.findall(r"lightning_shim: (.*)$", trial.log, re.M)]


class TestTraining:
    def test_ends_well(self, uninterrupted: Trial) -> None:
        assert_ended_well(uninterrupted)

    def test_hyperparameters_are_the_experiments(self, uninterrupted: Trial) -> None:
        assert uninterrupted.results()["hparams"] == {"dropout": 0.25, "lr": 0.3}
        assert uninterrupted.checkpoint(MAX_LENGTH)["hyper_parameters"] == {"dropout": 0.25, "lr": 0.3}

    def test_step_values(self, uninterrupted: Trial) -> None:
        metrics = uninterrupted.master.metrics("training")
        assert sorted(metrics) == list(range(1, MAX_LENGTH + 1))
        for steps, values in metrics.items():
            names = {"train_loss_step", "batches", "epochs"}
            if steps % EPOCH_LENGTH == 0:
                names |= EPOCH_VALUES
            assert values.keys() == names
            assert (values["batches"], values["epochs"]) == (steps, steps // EPOCH_LENGTH)

    def test_epoch_values_are_in_a_second_report(self, uninterrupted: Trial) -> None:
        reports = [
            (report["stepsCompleted"], report["metrics"]["avgMetrics"].keys())
            for request in uninterrupted.master.requests
            if request.route.endswith("/metrics") and request.body["group"] == "training"
            for report in [request.body["metrics"]]
        ]
        ends = range(EPOCH_LENGTH, MAX_LENGTH + 1, EPOCH_LENGTH)
        assert [report for report in reports if report[0] in ends] == [
            (steps, names) for steps in ends for names in ({"train_loss_step", "batches", "epochs"}, EPOCH_VALUES)
        ]

    def test_epoch_values(self, uninterrupted: Trial) -> None:
        metrics = uninterrupted.master.metrics("training")
        for epoch in range(MAX_LENGTH // EPOCH_LENGTH):
            steps = range(epoch * EPOCH_LENGTH + 1, (epoch + 1) * EPOCH_LENGTH + 1)
            # The last batch has two samples, the others have four.
            weighted = [metrics[step]["train_loss_step"] * (2 if step == steps[-1] else 4) for step in steps]
            assert metrics[steps[-1]]["train_loss_epoch"] == pytest.approx(sum(weighted) / 22)
            assert metrics[steps[-1]]["ended_epoch"] == epoch

    def test_validations(self, uninterrupted: Trial) -> None:
        metrics = uninterrupted.master.metrics("validation")
        assert sorted(metrics) == VALIDATIONS
        assert all(values.keys() == {"val_loss", "batches", "epochs"} for values in metrics.values())
        # The one is a mean over batches, the other of all samples at once: they may differ in the last bit.
        assert metrics[MAX_LENGTH]["val_loss"] == pytest.approx(uninterrupted.results()["val_loss"], rel=2e-7)

    def test_progress(self, uninterrupted: Trial) -> None:
        reported = uninterrupted.master.runs[0].progress
        assert reported == sorted(reported)
        assert sorted(set(reported)) == pytest.approx([0, 1 / 3, 2 / 3, 1])

    def test_checkpoint_has_the_final_weights_and_the_code(self, uninterrupted: Trial) -> None:
        weights = uninterrupted.checkpoint(MAX_LENGTH)["state_dict"]
        assert_same(weights, uninterrupted.results()["weights"], "weights")
        folder = uninterrupted.storage / uninterrupted.master.checkpoints[MAX_LENGTH]
        assert (folder / "code" / "model_def.py").read_text() == MODEL_DEF

    def test_seed_is_the_trials(self, uninterrupted: Trial, paused: Trial, larger_is_better: Trial) -> None:
        first, again, other = (
            {steps: values for steps, values in trial.master.runs[0].metrics["training"].items() if steps < PAUSES[0]}
            for trial in (uninterrupted, paused, larger_is_better)
        )
        assert first == again
        assert first.keys() == other.keys()
        assert all(first[steps]["train_loss_step"] != other[steps]["train_loss_step"] for steps in first)

    @pytest.mark.parametrize(
        ("warning", "code"),
        [
            (r"IgnoredMemberWarning: LitModel\.test_step is ignored: ", "def test_step(self, batch, batch_idx):"),
            (
                r"RefusedMemberWarning: trainer\.test is refused when this line is reached: ",
                "self.trainer.test(self)",
            ),
        ],
    )
    def test_warnings_are_in_the_log_once(self, uninterrupted: Trial, warning: str, code: str) -> None:
        (line,) = re.findall(rf"model_def\.py:(\d+): {warning}", uninterrupted.log)
        assert MODEL_DEF.splitlines()[int(line) - 1].strip() == code
        assert len(re.findall(warning, uninterrupted.log)) == 1

    def test_log_says_what_was_reported(self, uninterrupted: Trial) -> None:
        for group, entry in (("training", "training|end of the epoch"), ("validation", "validation")):
            logged = re.findall(rf"lightning_shim: epoch \d+, batch (\d+), (?:{entry}): ", uninterrupted.log)
            assert {int(steps) for steps in logged} == uninterrupted.master.metrics(group).keys()
        checkpoints = re.findall(r"lightning_shim: .*, checkpoint: (.+)$", uninterrupted.log, re.MULTILINE)
        assert [Path(path).name for path in checkpoints] == list(uninterrupted.master.checkpoints.values())
        assert uninterrupted.log.count("lightning_shim: trained to its length, after ") == 1

    def test_tensorboard_files_are_in_the_checkpoint_storage(self, uninterrupted: Trial) -> None:
        folder = uninterrupted.storage / CLUSTER_ID / f"tensorboard/experiment/{EXPERIMENT_ID}/trial/{TRIAL_ID}"
        events = EventAccumulator(str(folder)).Reload()
        validations = {scalar.step: scalar.value for scalar in events.Scalars("Determined/val_loss")}
        assert validations.keys() == set(VALIDATIONS)
        for steps, values in uninterrupted.master.metrics("validation").items():
            assert validations[steps] == values["val_loss"]


class TestPause:
    def test_ends_well(self, paused: Trial) -> None:
        assert_ended_well(paused)

    @pytest.mark.parametrize(("index", "steps"), list(enumerate(PAUSES)))
    def test_checkpoint_is_written_and_taken_up(self, paused: Trial, index: int, steps: int) -> None:
        before, after = paused.master.runs[index : index + 2]
        assert before.acknowledged
        assert max(before.metrics["training"]) == steps
        assert list(before.checkpoints)[-1] == steps
        assert (after.latest_checkpoint, after.steps_completed) == (before.checkpoints[steps], steps)
        # An epoch that ended with the pause is reported by the process that goes on.
        assert min(steps for steps, values in after.metrics["training"].items() if "batches" in values) == steps + 1

    def test_only_the_pauses_are_acknowledged(self, paused: Trial, uninterrupted: Trial) -> None:
        assert not paused.master.runs[-1].acknowledged
        assert not uninterrupted.master.runs[-1].acknowledged

    @pytest.mark.parametrize("group", ["training", "validation"])
    def test_metrics_are_those_of_an_uninterrupted_trial(self, paused: Trial, uninterrupted: Trial, group: str) -> None:
        assert paused.master.metrics(group) == uninterrupted.master.metrics(group)

    def test_results_are_those_of_an_uninterrupted_trial(self, paused: Trial, uninterrupted: Trial) -> None:
        assert_same(paused.results()["weights"], uninterrupted.results()["weights"], "weights")
        assert_same_random_state(paused.results()["random"], uninterrupted.results()["random"])

    def test_last_checkpoint_is_that_of_an_uninterrupted_trial(self, paused: Trial, uninterrupted: Trial) -> None:
        ours, theirs = (trial.checkpoint(MAX_LENGTH) for trial in (paused, uninterrupted))
        for name in ("state_dict", "models_state_dict", "optimizers_state_dict", "epoch", "global_step"):
            assert_same(ours[name], theirs[name], name)
        assert_same_random_state(ours["rng_state"], theirs["rng_state"])

    @WITH_NUMBERS_OF_NEWER_TORCH
    def test_model_checkpoint_is_that_of_an_uninterrupted_trial(self, paused: Trial, uninterrupted: Trial) -> None:
        ours, theirs = (trial.results()["models"] for trial in (paused, uninterrupted))
        assert_same(ours, theirs, "models")
        # One file is from before a pause in the middle of an epoch, another from before the last pause: there was
        # nothing left of them but what Determined's checkpoints hold.
        steps = {steps_of(path) for path in ours["scores"]}
        assert min(steps) < PAUSES[1] < PAUSES[2]
        assert max(steps) <= PAUSES[2]
        assert ours["files"] == sorted(Path(path).name for path in ours["scores"])

    def test_best_checkpoints_are_those_of_an_uninterrupted_trial(self, paused: Trial, uninterrupted: Trial) -> None:
        assert set(paused.master.checkpoints) == {*uninterrupted.master.checkpoints, *PAUSES}


class TestModelCheckpoint:
    @pytest.mark.parametrize("name", ["uninterrupted", "paused", "distributed", "paused_distributed"])
    def test_best_model_is_the_one_with_the_best_metric(self, request: pytest.FixtureRequest, name: str) -> None:
        trial: Trial = request.getfixturevalue(name)
        models, validations = trial.results()["models"], trial.master.metrics("validation")
        worst_first = sorted((values["val_loss"] for values in validations.values()), reverse=True)
        assert models["best_score"] == worst_first[0]
        assert sorted(models["scores"].values(), reverse=True) == worst_first[:2]
        assert models["scores"][models["best"]] == models["best_score"]

    @pytest.mark.parametrize("name", ["uninterrupted", "paused"])
    def test_last_checkpoint_has_copies(self, request: pytest.FixtureRequest, name: str) -> None:
        trial: Trial = request.getfixturevalue(name)
        folder = trial.storage / trial.master.checkpoints[MAX_LENGTH] / "model_checkpoints"
        copies = {file.name: torch.load(file, weights_only=True)["state_dict"] for file in folder.iterdir()}
        weights = trial.results()["models"]["weights"]
        assert_same(copies, {Path(path).name: weights[path] for path in weights})


class TestBest:
    def expected(self, trial: Trial, is_better: Callable[[float, float], bool]) -> list[int]:
        """Returns when checkpoints are due: after each validation that is the best, and at the end."""
        due, best = [], None
        for steps, values in sorted(trial.master.metrics("validation").items()):
            if best is None or is_better(values["val_loss"], best):
                best = values["val_loss"]
                due.append(steps)
        # Otherwise the test could not tell "best" from "all" and "none".
        assert 1 < len(due) < len(VALIDATIONS)
        return sorted({*due, MAX_LENGTH})

    @WITH_NUMBERS_OF_NEWER_TORCH
    def test_smaller_is_better(self, uninterrupted: Trial) -> None:
        due = self.expected(uninterrupted, lambda now, before: now < before)
        assert list(uninterrupted.master.checkpoints) == due

    def test_larger_is_better(self, larger_is_better: Trial) -> None:
        assert_ended_well(larger_is_better)
        due = self.expected(larger_is_better, lambda now, before: now > before)
        assert list(larger_is_better.master.checkpoints) == due

    def test_metric_that_is_not_logged(self, run_trial: RunTrial) -> None:
        trial = run_trial(searcher={"metric": "accuracy"})
        assert trial.outcomes[0].exit_code != 0
        error = trial.log.strip().splitlines()[-1]
        assert "'accuracy'" in error
        assert "'val_loss'" in error
        assert trial.master.checkpoints == {}


def test_refusal_ends_the_trial_before_it_trains(run_trial: RunTrial) -> None:
    trial = run_trial(entrypoint="REFUSED=1 python3 model_def.py")
    assert trial.outcomes[0].exit_code == 1
    error = trial.log.strip().splitlines()[-1]
    refused = re.search(r"RefusedMemberError: .*model_def\.py:(\d+): LitModel\.configure_apex is refused: ", error)
    assert refused is not None, error
    assert MODEL_DEF.splitlines()[int(refused[1]) - 1].strip().startswith("def configure_apex(")
    assert trial.master.metrics("training") == {}


def test_invalid_hyperparameters_end_the_trial_early(invalid: Trial) -> None:
    assert_ended_well(invalid)
    assert invalid.master.early_exits == ["EXITED_REASON_INVALID_HP"]
    assert invalid.master.metrics("training") == {}


def test_classic_entrypoint(classic: Trial, uninterrupted: Trial) -> None:
    assert_ended_well(classic)
    for group in ("training", "validation"):
        assert classic.master.metrics(group) == uninterrupted.master.metrics(group)
    assert list(classic.master.checkpoints) == list(uninterrupted.master.checkpoints)
    weights = classic.checkpoint(MAX_LENGTH)["state_dict"]
    assert_same(weights, uninterrupted.results()["weights"], "weights")
    assert classic.log.count("test_step is ignored") == 1
    assert "report_validation_metrics(" in classic.log
    assert lines_of(classic) == lines_of(uninterrupted)


LOAD = """
import sys, torch
from determined import pytorch

trial = pytorch.load_trial_from_checkpoint_path(sys.argv[1])
assert type(trial).__name__ == "MyTrial"
torch.save({"weights": trial.module.state_dict(), "hparams": dict(trial.module.hparams)}, sys.argv[2])
"""


def test_classic_trial_is_loaded_by_determined(classic: Trial, tmp_path: Path) -> None:
    """From what the checkpoint holds alone: the code, the configuration and the weights."""
    checkpoint = classic.storage / classic.master.checkpoints[MAX_LENGTH]
    command = [sys.executable, "-c", LOAD, str(checkpoint), str(tmp_path / "loaded.pt")]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, check=True, timeout=120)
    loaded = torch.load(tmp_path / "loaded.pt")
    assert_same(loaded["weights"], classic.checkpoint(MAX_LENGTH)["state_dict"], "weights")
    assert loaded["hparams"] == {"dropout": 0.25, "lr": 0.3}


class TestTwoProcesses:
    def test_end_well(self, distributed: Trial) -> None:
        assert_ended_well(distributed)
        assert distributed.log.count("test_step is ignored") == 1
        assert distributed.log.count("lightning_shim: trained to its length, after ") == 1

    def test_have_the_same_weights(self, distributed: Trial) -> None:
        weights = distributed.results(0)["weights"]
        assert_same(distributed.results(1)["weights"], weights, "weights")
        assert_same(distributed.checkpoint(DISTRIBUTED_LENGTH)["state_dict"], weights, "checkpoint")

    def test_report_once(self, distributed: Trial) -> None:
        reports = [request for request in distributed.master.requests if request.route.endswith("/metrics")]
        training = distributed.master.metrics("training")
        validation = distributed.master.metrics("validation")
        assert sorted(training) == list(range(1, DISTRIBUTED_LENGTH + 1))
        assert sorted(validation) == [4, 8, DISTRIBUTED_LENGTH]
        assert len(reports) == DISTRIBUTED_LENGTH + MAX_LENGTH // EPOCH_LENGTH + 3

    def test_metrics_are_lightnings(self, distributed: Trial) -> None:
        metrics = distributed.master.metrics("training")
        first, second = (distributed.results(rank)["losses"] for rank in (0, 1))
        # Of its eleven samples, each has three in the last batch.
        own, others = (np.average(losses[:3], weights=(4, 4, 3)) for losses in (first, second))
        assert own != pytest.approx(others)
        assert [metrics[steps]["train_loss_step"] for steps in sorted(metrics)] == first
        # The first process's value, if the module does not ask for that of all.
        assert metrics[3]["train_loss_epoch"] == pytest.approx(own)
        assert metrics[3]["loss_of_all"] == pytest.approx((own + others) / 2)
        validation = distributed.master.metrics("validation")[DISTRIBUTED_LENGTH]
        # The mean of two halves is rounded otherwise than that of the whole, with some versions of PyTorch.
        assert validation["val_loss"] == pytest.approx(distributed.results()["val_loss"])

    def test_pause(self, paused_distributed: Trial, distributed: Trial) -> None:
        assert_ended_well(paused_distributed)
        before, after = paused_distributed.master.runs
        assert before.acknowledged
        assert after.steps_completed == DISTRIBUTED_PAUSE
        for rank in (0, 1):
            actual, expected = (trial.results(rank) for trial in (paused_distributed, distributed))
            assert_same(actual["weights"], expected["weights"], f"weights of {rank}")
            assert_same(actual["models"], expected["models"], f"models of {rank}")
            assert_same_random_state(actual["random"], expected["random"])

    def test_error_on_one_ends_both(self, run_trial: RunTrial) -> None:
        trial = run_trial(**{**TWO_PROCESSES, "entrypoint": f"BROKEN_RANK=1 {TWO_PROCESSES['entrypoint']}"})
        assert trial.outcomes[0].exit_code != 0
        assert "[rank1]: ValueError: the batch is broken" in trial.log
        assert max(trial.master.metrics("training")) < DISTRIBUTED_LENGTH

    @pytest.mark.parametrize("group", ["training", "validation"])
    def test_metrics_after_a_pause(self, paused_distributed: Trial, distributed: Trial, group: str) -> None:
        assert paused_distributed.master.metrics(group) == distributed.master.metrics(group)


class TestStandIn:
    def test_a_metric_reported_twice_is_refused(self) -> None:
        with Master({"hyperparameters": {}, "resources": {"slots_per_trial": 1}}) as master:
            run = master.start_run()
            session = api.TaskSession(master.url, "user", master.token, cert=None)

            def report(**metrics: float) -> None:
                reported = {
                    "trialId": TRIAL_ID,
                    "trialRunId": run.run_id,
                    "stepsCompleted": 1,
                    "metrics": {"avgMetrics": metrics},
                }
                session.post(f"/api/v1/trials/{TRIAL_ID}/metrics", json={"group": "training", "metrics": reported})

            report(first=1.0)
            report(second=2.0)
            with pytest.raises(errors.APIException, match=r"\['second'\] twice for batch 1"):
                report(second=2.0, third=3.0)
            assert master.metrics("training") == {1: {"first": 1.0, "second": 2.0}}

    def test_the_load_of_the_machine_is_of_no_batch(self) -> None:
        """Determined's profiler reports it under the same names again and again."""
        with Master({"hyperparameters": {}, "resources": {"slots_per_trial": 1}}) as master:
            run = master.start_run()
            session = api.TaskSession(master.url, "user", master.token, cert=None)
            load = {"trialId": TRIAL_ID, "trialRunId": run.run_id, "metrics": {"avgMetrics": {"agent": 1.0}}}
            for _ in range(2):
                session.post(f"/api/v1/trials/{TRIAL_ID}/metrics", json={"group": "cpu", "metrics": load})
            assert run.load == {"cpu": [{"agent": 1.0}] * 2}
            assert master.metrics("cpu") == {}

    def test_readme_lists_what_is_asked(
        self,
        uninterrupted: Trial,
        paused: Trial,
        larger_is_better: Trial,
        classic: Trial,
        distributed: Trial,
        invalid: Trial,
    ) -> None:
        trials = (uninterrupted, paused, larger_is_better, classic, distributed, invalid)
        asked = {
            (request.method, request.route, request.names) for trial in trials for request in trial.master.requests
        }
        readme = (Path(__file__).parent / "README.md").read_text()
        rows = re.findall(r"^\| `(\w+) (/api/\S+)` \| ([^|]*) \|", readme, flags=re.MULTILINE)
        listed = {(method, route, tuple(sorted(re.findall(r"`([^`]+)`", names)))) for method, route, names in rows}
        assert listed == asked
