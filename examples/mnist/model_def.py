"""Trains the module of model.py under Determined: on this machine, or on a cluster, as it stands."""

import lightning_shim

lightning_shim.patch()

from determined import pytorch

from model import LitMNIST, MNISTDataModule

if __name__ == "__main__":
    trial = lightning_shim.fit(
        LitMNIST,
        datamodule=MNISTDataModule,
        max_length=pytorch.Epoch(5),
        validation_period=pytorch.Epoch(1),
        seed=0,
    )
    print(f"validation accuracy: {trial.metrics['val_accuracy']:.1%}")
