"""Trains and tests with Lightning's Trainer, given the keyword arguments on the command line in JSON."""

import json
import os
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.seed import isolate_rng

from model import LitData, LitModel, save


class Stopping(pl.Callback):
    """Stops at a batch's validation as the search does; for the comparison."""

    def __init__(self, stops_at):
        self.stops_at = stops_at

    def on_validation_end(self, trainer, module):
        trainer.should_stop = trainer.global_step == self.stops_at


if __name__ == "__main__":
    if "PATCH_TRAINER" in os.environ:
        # What `python -m lightning_shim run` does, but for the launcher.
        import lightning_shim

        lightning_shim.patch(trainer=True)
    pl.seed_everything(3)
    arguments = {"log_every_n_steps": 1, **json.loads(sys.argv[1])}
    # Beside those of the Trainer.
    stops_at, weights = arguments.pop("stops_at", None), arguments.pop("weights", None)
    validates_first = arguments.pop("validates_first", False)
    best = ModelCheckpoint(monitor="val_loss")
    trainer = pl.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        callbacks=[
            *([best] if arguments.get("enable_checkpointing", True) else []),
            *([] if stops_at is None else [Stopping(stops_at)]),
        ],
        **arguments,
    )
    model = LitModel()
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    if validates_first:
        # The trial's leaves random numbers as they were.
        with isolate_rng():
            trainer.validate(model, LitData(), verbose=False)
    trainer.fit(model, LitData())
    tested = trainer.test(model, LitData(), verbose=False)
    save(
        model,
        trainer,
        tested=tested,
        best=best.best_model_score,
        length=trainer.estimated_stepping_batches,
        is_profiled=model.is_profiled,
    )
