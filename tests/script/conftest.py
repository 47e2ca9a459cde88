"""What the tests of scripts share: each script runs once under Lightning's own Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import lightning_shim
from tests.script.execution import SCRIPTS, execute

ByPython = Callable[..., Path]


@pytest.fixture(scope="session")
def by_python(tmp_path_factory: pytest.TempPathFactory) -> ByPython:
    """Gives a function that runs a script by plain Python, and returns the folder that it has run in."""
    folders: dict[tuple[str, ...], Path] = {}

    def by_python(script: str, *arguments: str) -> Path:
        command = (script, *arguments)
        if command not in folders:
            folder = tmp_path_factory.mktemp("by_python") / "lightning"
            execute(folder, str(SCRIPTS / script), *arguments)
            folders[command] = folder
        return folders[command]

    return by_python


@pytest.fixture
def _scripts() -> Iterator[None]:
    """Makes the Trainer of a test that of a script under ``run``."""
    with lightning_shim.patched(trainer=True):
        yield
