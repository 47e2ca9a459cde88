"""Lightning 1.9 as the oracle for modules of its time; Lightning 2's own Trainer refuses them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import filelock
import pytest
import torch

from tests.support.packages import install
from tests.support.recording import Recording

# It cannot stand beside Lightning 2 in one environment. Its wheel needs no more than what is there, and pkg_resources.
REQUIREMENTS = ("pytorch-lightning==1.9.5", "setuptools==79.0.1")


@pytest.fixture(scope="session")
def lightning_1(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> dict[str, Recording]:
    """What the Trainer of Lightning 1.9 did with each module, by the name of its class."""
    base = tmp_path_factory.getbasetemp()
    # Those who run tests side by side have a folder in common, above their own.
    folder = (base if worker_id == "master" else base.parent) / "lightning_1"
    recordings = folder / "recordings.pt"
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not recordings.exists():
            _record(folder, recordings)
    result: dict[str, Recording] = torch.load(recordings, weights_only=False)
    return result


def _record(folder: pathlib.Path, recordings: pathlib.Path) -> None:
    install(folder / "packages", *REQUIREMENTS)
    script = pathlib.Path(__file__).with_name("lightning_1.py")
    subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(recordings)],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "packages")},
    )
