"""The README's commands, on a clean clone of what is committed; continuous integration installs what they need."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from tests.support.repository import REPOSITORY
from tools import check_picture

pytestmark = pytest.mark.xdist_group("readme")


Run = Callable[..., str]


def command_in_readme(name: str) -> str:
    """The command, as the script that continuous integration takes it with reads it."""
    script = REPOSITORY / ".ci" / "readme-command"
    return subprocess.run([script, name], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is committed, in a folder of its own."""
    folder = tmp_path_factory.mktemp("readme") / "clone"
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, folder], check=True)
    return folder


@pytest.fixture
def run(clone: Path) -> Run:
    """Runs Python in the clone, with what is installed for the tests, and returns what it printed."""

    def run_in_clone(*command: str) -> str:
        finished = subprocess.run(
            [sys.executable, *command],
            cwd=clone,
            env=os.environ | {"PYTHONPATH": str(clone), "OMP_NUM_THREADS": "1"},
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


def test_continuous_integration_runs_the_commands() -> None:
    """In a new environment, the smaller extra first: neither command finds what it would not have installed itself."""
    assert re.findall(r"^readme_command (\w+)$", (REPOSITORY / ".ci" / "run").read_text(), re.M) == ["example", "test"]


@pytest.fixture(scope="module")
def check() -> subprocess.CompletedProcess[str]:
    """What the README's check command prints."""
    environment = os.environ | {"COLUMNS": str(check_picture.COLUMNS), "PYTHONPATH": str(REPOSITORY)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    command = command_in_readme("check")
    assert command == f"python -m lightning_shim check {check_picture.TARGET}"
    return subprocess.run(["bash", "-c", command], cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_check_command_prints_what_the_picture_shows(check: subprocess.CompletedProcess[str]) -> None:
    # The README says so: the module has a refused member.
    assert check.returncode == 1, check.stderr
    assert check_picture.PICTURE.read_text() == check_picture.check_picture(check.stdout), (
        "docs/check.svg is out of date; draw it again with: python tools/check_picture.py"
    )


def test_picture_of_the_check_has_every_line_of_it(check: subprocess.CompletedProcess[str]) -> None:
    picture = check_picture.check_picture(check.stdout)
    shown = [unescape(re.sub("<[^>]+>", "", line)) for line in picture.splitlines()]
    assert [line for line in check.stdout.splitlines() if line] == [line for line in shown if line][1:]


def test_example_reaches_93_percent(clone: Path, run: Run) -> None:
    # Off-cluster Determined would copy the working directory into each checkpoint, an environment in it included.
    environment = clone / ".venv" / "large"
    environment.parent.mkdir()
    environment.write_bytes(bytes(6_000_000))
    install, _, script = command_in_readme("example").partition(" && python ")
    assert install.startswith("pip install ")
    printed = run(script)
    accuracy = re.search(r"^validation accuracy: ([\d.]+)%$", printed, re.MULTILINE)
    assert accuracy is not None, printed
    assert float(accuracy[1]) >= 93
    checkpoint = re.search(r"^Checkpoint: (.+)$", printed, re.MULTILINE)
    assert checkpoint is not None, printed
    assert sum(file.stat().st_size for file in Path(checkpoint[1]).rglob("*")) < 5_000_000


def test_clean_clone_has_all_tests_and_what_they_import(run: Run) -> None:
    collected = re.search(
        r"^(\d+)(/\d+)? tests collected", run("-m", "pytest", "-n0", "--collect-only", "-q"), re.MULTILINE
    )
    assert collected is not None
    assert int(collected[1]) > 100
