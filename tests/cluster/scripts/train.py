"""Trains and tests with Lightning's Trainer, given the keyword arguments on the command line in JSON."""

import json
import sys

import pytorch_lightning as pl

from model import LitData, LitModel, save


class Stopping(pl.Callback):
    """Stops at a batch's validation as the search does; for the comparison."""

    def __init__(self, stops_at):
        self.stops_at = stops_at

    def on_validation_end(self, trainer, module):
        trainer.should_stop = trainer.global_step == self.stops_at


if __name__ == "__main__":
    pl.seed_everything(3)
    arguments = json.loads(sys.argv[1])
    stops_at = arguments.pop("stops_at", None)
    trainer = pl.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        log_every_n_steps=1,
        callbacks=[] if stops_at is None else [Stopping(stops_at)],
        **arguments,
    )
    model = LitModel()
    trainer.fit(model, LitData())
    tested = trainer.test(model, LitData(), verbose=False)
    save(model, trainer, tested=tested)
