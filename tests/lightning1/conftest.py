"""Lightning 1.9 as the oracle for modules of its time; Lightning 2's own Trainer refuses them."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
import torch

from tests.lightning1.recording import Recording

# It cannot stand beside Lightning 2 in one environment. Its wheel needs no more than what is there, and pkg_resources.
REQUIREMENTS = ("pytorch-lightning==1.9.5", "setuptools==79.0.1")


@pytest.fixture(scope="session")
def lightning_1(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Recording]:
    """What the Trainer of Lightning 1.9 did with each module, by the name of its class."""
    folder = tmp_path_factory.mktemp("lightning_1")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "packages"), *REQUIREMENTS], check=True)
    script = pathlib.Path(__file__).with_name("lightning_1.py")
    subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(folder / "recordings.pt")],
        check=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "packages")},
    )
    recordings: dict[str, Recording] = torch.load(folder / "recordings.pt", weights_only=False)
    return recordings
