"""Trains with Lightning's Trainer, and tests the best checkpoint."""

import os

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from model import LitData, LitModel

if __name__ == "__main__":
    pl.seed_everything(3)
    best = ModelCheckpoint(monitor="val_loss", save_last=True)
    trainer = pl.Trainer(max_epochs=3, callbacks=[best], log_every_n_steps=1)
    model = LitModel()
    trainer.fit(model, LitData())
    trainer.test(model, LitData(), ckpt_path="best")
    print(f"machines: {os.environ.get('GROUP_WORLD_SIZE', 1)}")
