"""A script for Lightning's Trainer.

Its arguments are the seconds that a batch takes, and words: ``patched`` patches the Trainer, ``quiet`` wants no
progress bar, and ``evaluate`` evaluates afterwards.
"""

from __future__ import annotations

import sys

if "patched" in sys.argv:
    import lightning_shim

    lightning_shim.patch(trainer=True)

import pytorch_lightning as pl
from pytorch_lightning.trainer.connectors import callback_connector

from tests.terminal.model import EPOCHS, Lit, loader, number_of_processes

if __name__ == "__main__":
    # Without rich, for which Lightning would choose another bar.
    callback_connector._RICH_AVAILABLE = False
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=number_of_processes(),
        log_every_n_steps=2,
        enable_model_summary=False,
        enable_progress_bar="quiet" not in sys.argv,
    )
    trainer.fit(Lit(float(sys.argv[1])), loader(), loader())
    if trainer.is_global_zero:
        # Another process may be here before this one has drawn the last bar.
        print(f"{trainer.global_step} steps")
    if "evaluate" in sys.argv:
        for evaluate in (trainer.validate, trainer.test, trainer.predict):
            evaluate(dataloaders=loader())
