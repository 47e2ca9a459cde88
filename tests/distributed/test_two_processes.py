"""Two processes on one machine, started by torchrun: the weights of Lightning's DDP, the same on both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.scenarios import CALLBACKS, PROCESS_GROUP, SCENARIOS, UsesOneOfTwoHeads
from tests.parity.oracle import assert_same
from tests.support.places import place_in
from tests.support.torchrun import run

pytestmark = pytest.mark.xdist_group("two processes")

SIDES = ("determined", "lightning")
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """What each side's processes ended with, by rank."""
    folder = tmp_path_factory.mktemp("two_processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_TRAINER_DEFAULT_ROOT_DIR", str(folder))
        for side in SIDES:
            finished = run(Path(__file__).with_name("train.py"), side, str(folder / side))
            assert finished.returncode == 0, finished.stderr
    return {side: [torch.load(f"{folder / side}.{rank}", weights_only=False) for rank in range(2)] for side in SIDES}


@pytest.mark.parametrize("name", SCENARIOS)
def test_training_is_lightnings(results: Results, name: str) -> None:
    for rank in range(2):
        ours, theirs = (results[side][rank][name] for side in SIDES)
        for part in ("weights", "optimizers", "global_step", "facts", "callbacks", "files"):
            assert_same(ours[part], theirs[part], f"{part} of rank {rank}")


@pytest.mark.parametrize("name", SCENARIOS)
def test_weights_are_the_same_on_both_processes(results: Results, name: str) -> None:
    first, second = (results["determined"][rank][name] for rank in range(2))
    for parameter in first["trained"]:
        assert_same(first["weights"][parameter], second["weights"][parameter], parameter)


@pytest.mark.parametrize("name", SCENARIOS)
def test_metrics_of_training_are_lightnings(results: Results, name: str) -> None:
    # Rank 0 reports.
    for rank, kind in ((0, "reported"), (0, "metrics"), (1, "metrics")):
        ours, theirs = (results[side][rank][name][kind] for side in SIDES)
        names = {metric for metric in theirs if not metric.startswith("val_") and metric != "samples"}
        assert_same({metric: ours[metric] for metric in names}, {metric: theirs[metric] for metric in names})


@pytest.mark.parametrize("name", CALLBACKS)
def test_callbacks_do_something(results: Results, name: str) -> None:
    ours = results["determined"][0][name]
    assert (ours["files"] != []) is (name == "ModelCheckpoint")
    # Of 12 steps: it stops early, or has an epoch added.
    assert ours["global_step"] == {"EarlyStopping": 6, "own callback": 9, "StochasticWeightAveraging": 13}.get(name, 12)


@pytest.mark.parametrize("name", SCENARIOS)
def test_metrics_of_validation_are_those_of_all_processes(results: Results, name: str) -> None:
    ours, theirs = ([results[side][rank][name]["metrics"] for rank in range(2)] for side in SIDES)
    samples = (7, 3) if name == "uneven shards" else (5, 5)
    for metric in ("val_loss", "val_batch"):
        # Lightning leaves each process its own value unless sync_dist is set.
        mean = sum(of_rank[metric] * share for of_rank, share in zip(theirs, samples, strict=True)) / 10
        assert ours[0][metric] == ours[1][metric] == pytest.approx(mean)


def test_torchmetrics_synchronise_themselves(results: Results) -> None:
    for side in SIDES:
        of_both = [results[side][rank]["torchmetrics"]["metrics"] for rank in range(2)]
        for name in ("error", "val_error"):
            assert of_both[0][name] == of_both[1][name]
            assert of_both[0][name] == results["lightning"][0]["torchmetrics"]["metrics"][name]
    metrics = results["determined"][0]["torchmetrics"]["metrics"]
    assert metrics["val_error"] == pytest.approx(metrics["val_loss"])


def test_uneven_shards_are_counted_once(results: Results) -> None:
    assert [results["determined"][rank]["uneven shards"]["metrics"]["samples"] for rank in range(2)] == [10, 10]


def test_what_the_processes_know_of_each_other(results: Results) -> None:
    for rank in range(2):
        facts = results["determined"][rank]["automatic"]["facts"]
        assert facts["ranks"] == (rank, rank, 0, rank == 0)
        assert facts["world"] == (2, 2, 1)
        assert facts["gathered"]["rank"].tolist() == [0, 1]
        assert facts["gathered"]["pair"].tolist() == [[0, 0], [1, 1]]
        assert facts["reduced"] == {"mean": 1.5, "sum": 3}
        assert facts["broadcast"] == ["rank 0", "rank 1"]
        assert facts["decided"] == [False, True]
        assert facts["rank_zero"] == (rank, "ran" if rank == 0 else None)


def test_buffers_are_those_of_rank_zero(results: Results) -> None:
    seen = [results["determined"][rank]["buffers"]["facts"]["seen"] for rank in range(2)]
    # The validation between the epochs ends the synchronisation for one step, as under Lightning.
    assert seen[0] == [0, 1, 2, 3, 4, 5]
    assert seen[1][:3] == [0, 1, 2]


def test_gradients_are_synchronised_when_the_optimizer_steps(results: Results) -> None:
    first, second = (results["determined"][rank]["accumulation by hand"]["facts"]["gradients"] for rank in range(2))
    are_the_same = [torch.equal(*gradients) for gradients in zip(first, second, strict=True)]
    # In the second epoch each batch's are.
    assert are_the_same == [False, True, True, True, True, True]


def test_process_group_is_that_of_the_strategy(results: Results) -> None:
    for side in SIDES:
        assert [results[side][rank]["timeout"] for rank in range(2)] == [PROCESS_GROUP["timeout"]] * 2


def test_one_process_stops_both(results: Results) -> None:
    # After the report that follows the step at which it was asked for.
    assert [results["determined"][rank]["stopped"] for rank in range(2)] == [2, 2]


def test_global_batch_size_is_that_of_all_processes(results: Results) -> None:
    """``global_batch_size`` is the sum of what the slots train on; a loader's is that of one."""
    said = [results["determined"][rank]["global_batch_size"] for rank in range(2)]
    assert [of_rank[8] for of_rank in said] == [[], []]
    (warning,) = said[0][4]
    place = place_in(Path(__file__).with_name("scenarios.py"), "train_dataloader")
    assert warning.startswith(f"{place}: HyperparameterWarning: The hyperparameter global_batch_size is 4, ")
    assert "has batches of 4 on 2 slots, 8 in all." in warning
    assert said[1][4] == []


def test_unused_parameters_are_an_error(results: Results) -> None:
    name = "unused parameters that nobody looks for"
    for rank in range(2):
        error, message = results["determined"][rank]["refused"][name]
        line = UsesOneOfTwoHeads.training_step.__code__.co_firstlineno
        assert error == "ConfigurationError"
        assert f"scenarios.py:{line}: some parameters had no part in the loss" in message
        assert "Pass find_unused_parameters=True" in message
        assert results["lightning"][rank]["refused"][name][0] == "RuntimeError"


def test_batch_norm_is_synchronised_on_gpus_only(results: Results) -> None:
    for rank in range(2):
        error, message = results["determined"][rank]["refused"]["sync_batchnorm"]
        assert error == "ConfigurationError"
        assert "scenarios.py" in message
        assert "works only on GPUs" in message
        error, message = results["lightning"][rank]["refused"]["sync_batchnorm"]
        assert (error, message) == ("ValueError", "SyncBatchNorm layers only work with GPU modules")


def test_samples_are_shared(results: Results) -> None:
    shared, whole = (
        [results["determined"][rank][name]["facts"]["batches"] for rank in range(2)]
        for name in ("own sampler", "nothing shared")
    )
    assert not torch.equal(shared[0][0][0], shared[1][0][0])
    assert_same(whole[0], whole[1])


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("batch sampler", "gave a DataLoader that cannot be shared by several processes: Lightning can't inject a"),
        ("loader", "gave a Repeats that cannot be shared by several processes: Trying to inject custom `Sampler` into"),
        (
            "loader of a hook",
            "You seem to have configured a sampler in your DataLoader which does not provide `__len__`",
        ),
    ],
)
def test_what_cannot_be_shared_is_an_error(results: Results, name: str, problem: str) -> None:
    for rank in range(2):
        error, message = results["determined"][rank]["refused"][name]
        assert error == "ConfigurationError"
        assert problem in message
        assert ("scenarios.py" if "hook" in name else "train.py") in message
        assert "or pass use_distributed_sampler=False" in message
        assert results["lightning"][rank]["refused"][name][0] in ("TypeError", "MisconfigurationException")
