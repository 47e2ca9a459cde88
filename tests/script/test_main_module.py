"""A script under ``run`` is Python's ``__main__``, for itself and for those who look it up: data workers and pickle."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.script.execution import RUN, SCRIPTS, execute

NOTHING_TRAINED = "lightning_shim: the script has ended without a call of Trainer.fit, so nothing was trained.\n"


def seen(folder: Path, *command: str) -> tuple[dict[str, Any], str]:
    """Runs a script in a folder of the same path each time; returns what it has seen, and what was printed."""
    here = folder / "here"
    # `execute` makes the folder, and the package is beside it.
    # The prepared Python's own __main__ is not quite Python's.
    printed = execute(here, *command, executable=sys.executable)
    [results] = here.glob("results*.json")
    content: dict[str, Any] = json.loads(results.read_text())
    shutil.rmtree(here)
    return content, printed


def test_script_with_spawned_workers(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    shutil.copy(SCRIPTS / "spawned.py", tmp_path / "package")
    command = ("./../package/spawned.py", "train")
    expected, _ = seen(tmp_path, *command)
    actual, printed = seen(tmp_path, *RUN, *command)
    assert actual == expected
    assert expected["seen"]["path"] == str(tmp_path / "package")
    assert NOTHING_TRAINED not in printed


def test_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    shutil.copy(SCRIPTS / "spawned.py", tmp_path / "package")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    command = ("-m", "package.spawned", "--flag", "-m")
    expected, _ = seen(tmp_path, *command)
    actual, printed = seen(tmp_path, *RUN, *command)
    assert actual == expected
    assert expected["seen"]["spec"][0] == "package.spawned"
    assert printed.endswith(NOTHING_TRAINED)
