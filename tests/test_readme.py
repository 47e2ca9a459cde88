"""The README's commands, on a clean clone of what is committed, in a virtual environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from tools import check_picture

pytestmark = pytest.mark.xdist_group("readme")

ROOT = Path(__file__).parents[1]

Run = Callable[[str], str]


def command_in_readme(name: str) -> str:
    """The command, as the script that continuous integration takes it with reads it."""
    script = ROOT / ".ci" / "readme-command"
    return subprocess.run([script, name], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a command line in the clone, with the new environment active, and returns what it printed."""
    scratch = tmp_path_factory.mktemp("readme")
    subprocess.run(["git", "clone", "--quiet", ROOT, scratch / "clone"], check=True)
    # In the clone, where the README puts it.
    environment_folder = scratch / "clone" / ".venv"
    venv.create(environment_folder, with_pip=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    environment |= {
        "VIRTUAL_ENV": str(environment_folder),
        "PATH": f"{environment_folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        # Determined writes its checkpoints below it.
        "XDG_DATA_HOME": str(scratch / "data"),
    }

    def run_in_clone(command: str) -> str:
        finished = subprocess.run(
            ["bash", "-c", command],
            cwd=scratch / "clone",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert finished.returncode == 0, f"{command}\n{finished.stdout}"
        return finished.stdout

    return run_in_clone


@pytest.mark.parametrize("name", ["example", "test"])
def test_command_is_one_line_with_the_constraints(name: str) -> None:
    command = command_in_readme(name)
    assert "\n" not in command
    assert command.startswith("pip install -c constraints.txt ")


def test_missing_command_is_an_error() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        command_in_readme("no-such-command")


def test_continuous_integration_runs_the_test_command() -> None:
    assert '"$(.ci/readme-command test)"' in (ROOT / ".ci" / "run").read_text()


def test_check_command_prints_what_the_picture_shows() -> None:
    environment = os.environ | {"COLUMNS": str(check_picture.COLUMNS), "PYTHONPATH": str(ROOT)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = command_in_readme("check")
    assert command == f"python -m lightning_shim check {check_picture.TARGET}"
    finished = subprocess.run(["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True)
    # The README says so: the module has a refused member.
    assert finished.returncode == 1, finished.stderr
    assert check_picture.PICTURE.read_text() == check_picture.check_picture(finished.stdout), (
        "docs/check.svg is out of date; draw it again with: python tools/check_picture.py"
    )


def test_picture_of_the_check_has_every_line_of_it() -> None:
    text = check_picture.printed()
    shown = [unescape(re.sub("<[^>]+>", "", line)) for line in check_picture.check_picture(text).splitlines()]
    assert [line for line in text.splitlines() if line] == [line for line in shown if line][1:]


# The two below share an environment, in this order: the extra "test" contains the extra "examples", so that
# neither finds anything that it would not have installed itself.


def test_example_command_reaches_93_percent(run: Run) -> None:
    printed = run(command_in_readme("example"))
    accuracy = re.search(r"^validation accuracy: ([\d.]+)%$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 93
    # Off-cluster Determined would copy the working directory into each checkpoint, the environment included.
    checkpoint = re.search(r"^Checkpoint: (.+)$", printed, re.MULTILINE)
    assert checkpoint is not None, printed
    assert sum(file.stat().st_size for file in Path(checkpoint[1]).rglob("*")) < 5_000_000


def test_test_command_finds_the_tests(run: Run) -> None:
    # The whole suite would run this test again. What is left to show here is that the clean clone has all the
    # test modules and what they import; continuous integration runs the command to its end.
    command = command_in_readme("test")
    collected = re.search(r"^(\d+) tests collected", run(f"{command} --collect-only -q"), re.MULTILINE)
    assert collected is not None
    assert int(collected[1]) > 100
    assert " passed" in run(f"{command} tests/test_members.py")
