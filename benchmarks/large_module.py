"""Time and peak memory of a module of 400 MB, whose checkpoints are what costs: ``python -m benchmarks.large_module``.

Each contestant trains three epochs of ten batches, in a process of its own, with a checkpoint after each epoch.
"""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import redirect_stdout
from typing import Any, Final

import pytorch_lightning as pl
import torch
from determined import pytorch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_shim
from benchmarks.contestants import silence

MEGABYTES: Final = 400
EPOCHS: Final = 3
_WIDTH: Final = 1024


class LargeModule(pl.LightningModule):
    """An embedding that is nearly all of the weights, of which a batch needs a few rows.

    Args:
        megabytes: The size of the weights.
    """

    def __init__(self, megabytes: int) -> None:
        super().__init__()
        self.rows = nn.Embedding(megabytes * 2**20 // (4 * _WIDTH), _WIDTH)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Computes the loss of a batch of indices."""
        loss: Tensor = self.rows(batch).square().mean()
        return loss

    def configure_optimizers(self) -> Any:
        """Makes the optimizer, which keeps a momentum as large as the weights."""
        return torch.optim.SGD(self.parameters(), lr=1e-3, momentum=0.9)


def _train(contestant: str, megabytes: int) -> None:
    module = LargeModule(megabytes)
    loader: DataLoader[Any] = DataLoader(list(torch.arange(40)), batch_size=4)  # type: ignore[arg-type]
    if contestant == "pl.Trainer":
        checkpoints = pl.callbacks.ModelCheckpoint("checkpoints", save_top_k=-1)
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        pl.Trainer(max_epochs=EPOCHS, accelerator="cpu", callbacks=[checkpoints], **options).fit(module, loader)
    else:
        lightning_shim.fit(
            module,
            loader,
            max_length=pytorch.Epoch(EPOCHS),
            checkpoint_period=pytorch.Epoch(1),
            checkpoint_policy="all",
        )


def _run(contestant: str, megabytes: int) -> None:
    """Prints the seconds, those of the processor alone, and the peak of the process's memory in MB."""
    torch.set_num_threads(1)
    silence()
    warnings.simplefilter("ignore")
    start, processor = time.perf_counter(), time.process_time()
    with redirect_stdout(io.StringIO()):
        _train(contestant, megabytes)
    seconds = time.perf_counter() - start, time.process_time() - processor
    print(*(f"{each:.1f}" for each in seconds), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    """Runs the command; the size in megabytes may be given."""
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else MEGABYTES
    rows = []
    for contestant in ("LightningTrial", "pl.Trainer"):
        with tempfile.TemporaryDirectory() as folder:
            program = f"from benchmarks.large_module import _run; _run({contestant!r}, {megabytes})"
            paths = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")])
            finished = subprocess.run(
                [sys.executable, "-c", program],
                cwd=folder,
                env=os.environ | {"XDG_DATA_HOME": folder, "PYTHONPATH": paths},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
        rows.append([contestant, *finished.stdout.split()[-3:]])
    print(tabulate(rows, ["", "seconds", "of the processor", "peak memory, MB"], tablefmt="github"))


if __name__ == "__main__":
    main()
