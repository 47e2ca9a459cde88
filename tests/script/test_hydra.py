"""A script of hydra's, with a folder and a configuration for each run: under ``run`` all is as under Python."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cluster import trial as trials
from tests.cluster.trial import assert_ended_well
from tests.parity.oracle import assert_same
from tests.script.execution import RUN, SCRIPTS, execute
from tests.support.packages import install

pytestmark = pytest.mark.xdist_group("hydra")

# Hydra 1.3 wants another OmegaConf than the other tests.
REQUIREMENTS = ("hydra-core==1.3.8", "omegaconf==2.3.1", "antlr4-python3-runtime==4.9.3")
SCRIPT = "hydra_script.py"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hydra") / "packages"
    install(folder, *REQUIREMENTS)
    return folder


@pytest.fixture(scope="module")
def by_python(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Path:
    """A multirun under plain Python, with Lightning's Trainer."""
    folder = tmp_path_factory.mktemp("by_python") / "lightning"
    multirun(folder, packages)
    return folder / "multirun"


def multirun(folder: Path, packages: Path, *command: str) -> str:
    # The prepared Python has the other OmegaConf.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(packages))
        return execute(
            folder,
            *command,
            str(SCRIPTS / SCRIPT),
            "--multirun",
            "model.learning_rate=0.1,0.2",
            executable=sys.executable,
        )


def results(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "results-0.pt", weights_only=False)
    return content


def files(folder: Path) -> list[str]:
    """Returns the files that hydra and Lightning write."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.parts[0] in (".hydra", "checkpoints") or path.suffix == ".log")


def test_multirun(tmp_path: Path, packages: Path, by_python: Path) -> None:
    multirun(tmp_path / "determined", packages, *RUN)
    for job, rate in enumerate((0.1, 0.2)):
        ours, theirs = tmp_path / "determined" / "multirun" / str(job), by_python / str(job)
        assert_same(results(ours), results(theirs))
        assert results(ours)["config"]["model"]["learning_rate"] == rate
        assert files(ours) == files(theirs)
        for name in ("config.yaml", "overrides.yaml"):
            assert (ours / ".hydra" / name).read_text() == (theirs / ".hydra" / name).read_text()


def test_hyperparameters_are_overrides(tmp_path: Path, packages: Path, by_python: Path) -> None:
    """A trial with a nested hyperparameter is what Lightning trains with it on the command line."""
    context = {name: (SCRIPTS / name).read_text() for name in ("plain.py", SCRIPT, "hydra_config.yaml")}
    path = os.pathsep.join([str(packages), "$PYTHONPATH"])
    configuration = {
        "name": "a script of hydra's",
        "entrypoint": f"PYTHONPATH={path} {sys.executable} {' '.join(RUN)} {SCRIPT} model.learning_rate=0.7",
        "hyperparameters": {"model": {"learning_rate": {"type": "const", "val": 0.2}, "depth": 3}},
        "searcher": {"name": "single", "metric": "val_loss", "smaller_is_better": True},
    }
    trial = trials.run_trial(tmp_path, configuration, context)
    assert_ended_well(trial)
    folder = trial.outcomes[0].folder / "outputs"
    expected = results(by_python / "1")
    assert_same(results(folder), {**expected, "folder": "outputs"})
    assert (folder / ".hydra" / "overrides.yaml").read_text() == "- model.learning_rate=0.2\n"
    [line] = re.findall(
        rf"{SCRIPT}:(\d+): hydra gets the trial's model.learning_rate=0.2 instead of 0.7\.$", trial.log, re.M
    )
    assert context[SCRIPT].splitlines()[int(line) - 1] == "    main()"
    assert re.search(r"HyperparameterWarning: The hyperparameters model\.depth have no effect", trial.log)
