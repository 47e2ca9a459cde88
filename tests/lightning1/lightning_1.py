"""Runs each module under the Trainer of Lightning 1.9, in a process of its own, and saves what was seen."""

from __future__ import annotations

import pathlib
import sys
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from tests.lightning1.modules import MODULES
from tests.lightning1.recorded import recorded
from tests.support.recording import Recording, recording_logger


def run(module_class: Any) -> Recording:
    """Trains a module for three epochs."""
    recording = Recording()
    pl.seed_everything(7)
    module = recorded(module_class, recording)()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        devices=1,
        logger=recording_logger(Logger, recording),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **module_class.options,
    )
    trainer.fit(module)
    recording.finish(module)
    return recording


if __name__ == "__main__":
    assert pl.__version__.startswith("1.9."), pl.__version__
    torch.set_num_threads(1)
    torch.save({name: run(module_class) for name, module_class in MODULES.items()}, sys.argv[1])
