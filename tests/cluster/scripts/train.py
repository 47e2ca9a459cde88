"""Trains and tests with Lightning's Trainer, given the keyword arguments on the command line in JSON."""

import json
import os
import sys

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

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
    arguments = json.loads(sys.argv[1])
    stops_at, weights = arguments.pop("stops_at", None), arguments.pop("weights", None)
    best = ModelCheckpoint(monitor="val_loss")
    trainer = pl.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        log_every_n_steps=1,
        callbacks=[best, *([] if stops_at is None else [Stopping(stops_at)])],
        **arguments,
    )
    model = LitModel()
    if weights is not None:
        model.load_state_dict(torch.load(weights, weights_only=True)["state_dict"])
    trainer.fit(model, LitData())
    tested = trainer.test(model, LitData(), verbose=False)
    save(model, trainer, tested=tested, best=best.best_model_score)
