"""What the tests of scripts share: each script runs once under Lightning's own Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import lightning_shim
from tests.parity.oracle import assert_same
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


@pytest.fixture
def compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Gives a function that compares what another returns under Lightning's Trainer and as a trial."""

    def compared(script: Callable[[], Any]) -> Any:
        results = []
        for folder in ("lightning", "ours"):
            (tmp_path / folder).mkdir()
            monkeypatch.chdir(tmp_path / folder)
            torch.manual_seed(0)
            with lightning_shim.patched(trainer=folder == "ours"):
                results.append(script())
        assert_same(*results)
        return results[0]

    return compared
