"""Scripts as users of Lightning write them have the same results by ``python`` and by ``run``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.oracle import assert_same
from tests.script.conftest import ByPython
from tests.script.execution import RUN, SCRIPTS, execute

pytestmark = pytest.mark.xdist_group("scripts")


def run(folder: Path, script: str, *arguments: str) -> None:
    """Runs a script as a trial; nothing of these scripts is told that it has no effect."""
    assert "is ignored" not in execute(folder, *RUN, str(SCRIPTS / script), *arguments)


def saved(*folders: Path) -> list[Any]:
    return [torch.load(folder / "results.pt", weights_only=False) for folder in folders]


def results(by_python: ByPython, folder: Path, script: str, *arguments: str) -> list[Any]:
    """Runs a script both ways, and returns what it has saved."""
    ours = folder / "determined"
    run(ours, script, *arguments)
    return saved(ours, by_python(script, *arguments))


def logged(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "csv" / "version_0" / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    """Returns the paths of a run's files, but for those of TensorBoard, whose names have the time in them."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if "tfevents" not in path.name)


def test_plain(tmp_path: Path, by_python: ByPython) -> None:
    assert_same(*results(by_python, tmp_path, "plain.py"))
    ours, theirs = (
        torch.load(folder / "final.ckpt", weights_only=False)
        for folder in (tmp_path / "determined", by_python("plain.py"))
    )
    for name in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step", "hyper_parameters"):
        assert_same(ours[name], theirs[name], name)
    assert files(tmp_path / "determined") == files(by_python("plain.py"))


def test_callbacks_and_loggers(tmp_path: Path, by_python: ByPython) -> None:
    actual, expected = results(by_python, tmp_path, "loggers.py", "5")
    assert_same(actual, expected)
    assert 2 <= expected["epoch"] < 6
    assert logged(tmp_path / "determined") == logged(by_python("loggers.py", "5"))
    assert list((tmp_path / "determined" / "logs" / "board" / "version_0").glob("events.*"))


def test_gan(tmp_path: Path, by_python: ByPython) -> None:
    actual, expected = results(by_python, tmp_path, "gan.py")
    assert_same(actual, expected)
    assert expected["step"] == 22


def test_two_processes(tmp_path: Path, by_python: ByPython) -> None:
    command = ("searched.py", "several", "searched")
    lightning, determined = by_python(*command), tmp_path / "determined"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    execute(determined, *launcher, *RUN, str(SCRIPTS / command[0]), *command[1:])
    for rank in (0, 1):
        actual, expected = (
            torch.load(folder / f"results-{rank}.pt", weights_only=False) for folder in (determined, lightning)
        )
        assert_same(actual, expected, f"rank {rank}")


# Older Trainers repeat or lose a part of the epoch if they go on from a checkpoint of a validation.
@pytest.mark.lightning(">=2.5")
@pytest.mark.parametrize("last_epochs", [1, 2])
def test_several_trainers(tmp_path: Path, by_python: ByPython, last_epochs: int) -> None:
    actual, expected = results(by_python, tmp_path, "several.py", str(last_epochs))
    assert_same(actual, expected)
    assert [expected[name]["epoch"] for name in ("first", "second", "third", "fourth")] == [2, 4, 5, 1]
    assert expected["fifth"]["epoch"] == last_epochs


@pytest.mark.parametrize("before", ["import ", "pl.seed_everything"])
@pytest.mark.parametrize("script", ["plain.py", "gan.py"])
def test_patch_within_a_script(tmp_path: Path, by_python: ByPython, script: str, before: str) -> None:
    """Before Lightning is imported, and after the modules are defined."""
    text = (SCRIPTS / script).read_text()
    lines = text.splitlines()
    [at, *_] = [number for number, line in enumerate(lines) if line.strip().startswith(before)]
    indent = " " * (len(lines[at]) - len(lines[at].lstrip()))
    lines[at:at] = [f"{indent}import lightning_shim", f"{indent}lightning_shim.patch(trainer=True)"]
    patched = tmp_path / f"patched_{script}"
    patched.write_text("\n".join(lines))
    printed = execute(tmp_path / "determined", str(patched))
    assert_same(*saved(tmp_path / "determined", by_python(script)))
    assert "lightning_shim: training " in printed


@pytest.mark.parametrize("has_file", [False, True])
def test_lightning_cli(tmp_path: Path, by_python: ByPython, has_file: bool) -> None:
    arguments = ["fit", "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--model.hidden=6"]
    if has_file:
        file = tmp_path / "config.yaml"
        file.write_text("trainer: {max_epochs: 2, accelerator: cpu}\nmodel: {hidden: 6}\nstopping: {patience: 1}\n")
        arguments = ["fit", "--config", str(file), "--seed_everything=4"]
    actual, expected = results(by_python, tmp_path, "cli.py", *arguments)
    assert_same(actual, expected)
    assert (expected["hparams"]["hidden"], expected["epoch"]) == (6, 2)
    folders = (tmp_path / "determined", by_python("cli.py", *arguments))
    ours, theirs = (folder / "lightning_logs" / "version_0" / "config.yaml" for folder in folders)
    assert ours.read_text() == theirs.read_text()


@pytest.mark.parametrize("ending", ["raise ValueError('mine')", "import sys; sys.exit(3)"])
def test_script_ends_as_its_own(tmp_path: Path, ending: str) -> None:
    script = tmp_path / "ends.py"
    script.write_text(f"import sys\nprint(sys.argv, sys.path[0], __name__)\n{ending}\n")
    exit_code = 1 if "mine" in ending else 3
    plain = execute(tmp_path / "plain", str(script), "-x", "--help", exit_code=exit_code)
    assert execute(tmp_path / "run", *RUN, str(script), "-x", "--help", exit_code=exit_code) == plain


def test_script_that_is_not_there(tmp_path: Path) -> None:
    assert "there is no file no.py" in execute(tmp_path / "run", *RUN, "no.py", exit_code=2)
