"""The examples, as they are submitted."""

from __future__ import annotations

import pytest

from tests.e2e.submission import Cluster, example

# Of both, in their YAML files: 4,000 images in batches of 64, five times.
BATCHES = 63
EPOCHS = 5


@pytest.mark.parametrize("path", ["mnist/const.yaml", "mnist/classic.yaml", "mnist/script.yaml"])
def test_mnist(cluster: Cluster, path: str) -> None:
    [trial] = cluster.run(example(path))
    assert trial.state == "COMPLETED"
    validations = trial.metrics["validation"]
    assert sorted(validations) == [BATCHES * epoch for epoch in range(1, EPOCHS + 1)]
    assert validations[BATCHES * EPOCHS]["val_accuracy"] > 0.9
    assert "Traceback" not in trial.log
    assert trial.log.count(f"trained to its length, after {EPOCHS} epochs, {BATCHES * EPOCHS} batches") == 1
    if path == "mnist/script.yaml":
        [validated] = trial.metrics["validate"].values()
        assert validated["val_accuracy"] == max(each["val_accuracy"] for each in validations.values())


def test_mnist_on_several_slots(cluster: Cluster) -> None:
    submission = example("mnist/distributed.yaml")
    submission.configuration["resources"]["slots_per_trial"] = cluster.slots
    [trial] = cluster.run(submission)
    assert trial.state == "COMPLETED"
    validations = trial.metrics["validation"]
    assert len(validations) == EPOCHS
    assert validations[max(validations)]["val_accuracy"] > 0.9


@pytest.mark.parametrize("path", ["gan/const.yaml", "gan/distributed.yaml"])
def test_gan(cluster: Cluster, path: str) -> None:
    [trial] = cluster.run(example(path))
    assert trial.state == "COMPLETED"
    validations = trial.metrics["validation"]
    assert len(validations) == EPOCHS
    assert validations[max(validations)]["val_distance"] < validations[min(validations)]["val_distance"]


@pytest.mark.parametrize("path", ["mnist/adaptive.yaml", "gan/adaptive.yaml"])
def test_search_stops_trials(cluster: Cluster, path: str) -> None:
    """After one epoch or at the end, whatever the order in which they come to the rungs."""
    trials = cluster.run(example(path))
    assert [trial.state for trial in trials] == ["COMPLETED"] * 16
    epochs = [len(trial.metrics["validation"]) for trial in trials]
    print(f"epochs: {epochs}, {sum(epochs)} of {16 * EPOCHS}")
    assert set(epochs) == {1, EPOCHS}
    # A bracket of five stops none. Of the other eleven one goes on after its first epoch if it is the best so far, or
    # among the best quarter: the first one does, and in any order hardly ever more than eight do.
    assert 5 + 1 <= epochs.count(EPOCHS) <= 5 + 8
    for trial, trained in zip(trials, epochs, strict=True):
        assert trial.log.count("stopped early by the search") == (trained < EPOCHS)
