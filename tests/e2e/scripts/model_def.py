"""Trains by a call of fit."""

from determined import pytorch

import lightning_shim
from model import LitData, LitModel

if __name__ == "__main__":
    with lightning_shim.patched():
        lightning_shim.fit(LitModel, datamodule=LitData, max_length=pytorch.Epoch(3), reporting_period=pytorch.Batch(1))
