"""Trains the module of model.py under Determined: on this machine, or on a cluster, as it stands."""

import argparse
import pathlib

import lightning_shim

lightning_shim.patch()

import yaml
from determined import pytorch

from model import LitMNIST, MNISTDataModule


class MNISTTrial(lightning_shim.LightningTrial):
    """What classic.yaml names; the other configurations run this file as a script."""

    def build_module(self) -> type[LitMNIST]:
        return LitMNIST

    def build_datamodule(self) -> type[MNISTDataModule]:
        return MNISTDataModule


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=pathlib.Path, help="off-cluster: take the hyperparameters of this experiment")
    config = parser.parse_args().config
    trial = lightning_shim.fit(
        LitMNIST,
        datamodule=MNISTDataModule,
        max_length=pytorch.Epoch(5),
        validation_period=pytorch.Epoch(1),
        hparams={} if config is None else yaml.safe_load(config.read_text())["hyperparameters"],
        seed=0,
    )
    print(f"validation accuracy: {trial.metrics['val_accuracy']:.1%}")
