"""Trains the module of model.py with PyTorch Lightning's Trainer."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ModelCheckpoint

from model import LitMNIST, MNISTDataModule

if __name__ == "__main__":
    pl.seed_everything(0)
    module, datamodule = LitMNIST(), MNISTDataModule()
    checkpoints = ModelCheckpoint(monitor="val_accuracy", mode="max")
    trainer = pl.Trainer(max_epochs=5, callbacks=[checkpoints], log_every_n_steps=20)
    trainer.fit(module, datamodule=datamodule)
    trainer.validate(module, datamodule=datamodule, ckpt_path="best")
