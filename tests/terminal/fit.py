"""Trains by ``fit``; the argument is the seconds that a batch takes."""

from __future__ import annotations

import sys

from determined import pytorch

import lightning_shim
from tests.terminal.model import EPOCHS, Lit, loader

if __name__ == "__main__":
    try:
        lightning_shim.fit(
            Lit(float(sys.argv[1])),
            loader(),
            loader(),
            max_length=pytorch.Epoch(EPOCHS),
            reporting_period=pytorch.Batch(100),
        )
    except KeyboardInterrupt:
        print("KeyboardInterrupt has come through")
        sys.exit(3)
