"""The console script that pip makes, beside ``python -m lightning_shim``."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from pytest_mock import MockerFixture

import lightning_shim
from lightning_shim.cli import main

ROOT = Path(lightning_shim.__file__).parents[1]
NOTHING_TRAINED = "lightning_shim: the script has ended without a call of Trainer.fit, so nothing was trained.\n"


@pytest.fixture
def console_script(tmp_path: Path) -> Path:
    """The file as pip writes it, from what setup.cfg says."""
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    [line] = configuration["options.entry_points"]["console_scripts"].strip().splitlines()
    name, module, function = re.split(r" = |:", line)
    script = tmp_path / "bin" / name
    script.parent.mkdir()
    script.write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    return script


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "60"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("way", ["console script", "module"])
def test_version(console_script: Path, tmp_path: Path, way: str) -> None:
    program = [str(console_script)] if way == "console script" else ["-m", "lightning_shim"]
    finished = run(tmp_path, *program, "--version")
    [line] = finished.stdout.splitlines()
    assert line.startswith(f"lightning_shim {version('lightning_shim')} (")
    for distribution in ("pytorch-lightning", "lightning", "determined", "torch"):
        assert f"{distribution} {version(distribution)}, " in line
    assert line.endswith(f"Python {'.'.join(map(str, sys.version_info[:3]))})")


def test_package_need_not_be_installed(mocker: MockerFixture, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder beside the user's code is enough."""
    mocker.patch.object(main, "version", side_effect=lambda name: {"torch": "2.13.0"}.get(name) or missing(name))
    with pytest.raises(SystemExit) as end:
        main.main(["--version"])
    assert end.value.code == 0
    assert re.fullmatch(r"lightning_shim \(torch 2\.13\.0, Python [\d.]+\)\n", capsys.readouterr().out)


def missing(distribution: str) -> str:
    raise PackageNotFoundError(distribution)


def test_messages_name_the_program(console_script: Path, tmp_path: Path) -> None:
    finished = run(tmp_path, str(console_script), "init", "no.py")
    assert finished.returncode == 2
    assert finished.stderr.startswith("lightning_shim: there is no file no.py.")


def test_runs_a_module_of_the_working_directory(console_script: Path, tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text("import sys\nprint(sys.path[0], sys.argv[1:])\n")
    finished = run(tmp_path, str(console_script), "run", "-m", "my_module", "--x")
    assert (finished.returncode, finished.stdout) == (0, f"{tmp_path} ['--x']\n{NOTHING_TRAINED}")


def test_runs_a_script(console_script: Path, tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("print('found')\n")
    (tmp_path / "script.py").write_text("import neighbour\n")
    finished = run(tmp_path.parent, str(console_script), "run", str(tmp_path / "script.py"))
    assert (finished.returncode, finished.stdout) == (0, f"found\n{NOTHING_TRAINED}")
