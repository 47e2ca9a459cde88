"""Trains on machines that share no disk: ``machines.py FOLDER``. Each sees its own files below /proc/self/cwd."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from determined import pytorch
from pytorch_lightning.callbacks import ModelCheckpoint

import lightning_shim
from lightning_shim.checkpoint import machines
from tests.support.tiny import loader, tiny

DISK = "/proc/self/cwd"
MACHINE = Path.cwd()
# So that the files, of a few thousand bytes, come in several.
machines.CHUNK = 1000  # type: ignore[misc]


class Module(tiny(pl)):  # type: ignore[misc]
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.layer(batch[0]).square().mean(), sync_dist=True)

    test_step = validation_step

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return self.layer(batch[0])


def change_disk(name: str) -> None:
    """Gives this process an empty disk, beside the first one."""
    folder = MACHINE / name
    folder.mkdir()
    os.chdir(folder)


def loaded(path: str) -> Any:
    return torch.load(path, weights_only=False)["state_dict"]


def trainer(epochs: int = 3) -> tuple[pl.Trainer, ModelCheckpoint]:
    callback = ModelCheckpoint(monitor="val_loss", save_last=True, save_top_k=2)
    return pl.Trainer(max_epochs=epochs, callbacks=[callback], default_root_dir=DISK, logger=False), callback


def kept(callback: ModelCheckpoint) -> dict[str, bytes]:
    paths = (callback.best_model_path, callback.last_model_path, *callback.best_k_models)
    return {path: Path(path).read_bytes() for path in paths}


def of_script(is_first: bool) -> dict[str, Any]:
    change_disk("script")
    torch.manual_seed(0)
    module, data = Module(), {"train_dataloaders": loader(), "val_dataloaders": loader()}
    if not is_first:
        # Of an earlier training.
        Path("checkpoints").mkdir()
        Path("checkpoints/last.ckpt").write_bytes(b"old")
    users, callback = trainer()
    users.fit(module, **data)
    found: dict[str, Any] = {"kept": kept(callback)}
    for verb, name in (("validate", "best"), ("test", "last"), ("predict", "best")):
        getattr(users, verb)(module, loader(), ckpt_path=name)
        found[verb] = {key: value.clone() for key, value in module.state_dict().items()}
    found["files"] = [loaded(path) for path in (callback.best_model_path, callback.last_model_path)]
    with torch.no_grad():
        module.layer.weight.mul_(2)
    mine = f"{DISK}/of_rank_0.ckpt"
    users.save_checkpoint(mine)
    found["alone before"] = os.path.exists(mine)
    found["module"] = {key: value.clone() for key, value in module.state_dict().items()}
    other = Module()
    users.test(other, loader(), ckpt_path=mine)
    found["tested"] = other.state_dict()
    # Only the first machine knows which is the last.
    os.remove(callback.last_model_path if not is_first else mine)
    continued = Module()
    again, _ = trainer(epochs=4)
    again.fit(continued, **data, ckpt_path="last")
    found["continued"] = {"steps": again.global_step, "weights": continued.state_dict()}
    return found


def with_machines_exchanged() -> dict[str, Any]:
    """Trains on, as after a pause, on machines whose disks are empty."""
    found = {}
    latest, best = None, {}
    for epochs in (1, 2):
        change_disk(f"{epochs} epochs")
        torch.manual_seed(0)
        # It gets worse, so that the first epoch's file stays the best one.
        callback = ModelCheckpoint(monitor="val_loss", mode="max")
        # As an argument it would be resolved, to the folder of this process.
        callback.dirpath = f"{DISK}/checkpoints"
        trial = lightning_shim.fit(
            Module(),
            loader(),
            loader(),
            max_length=pytorch.Epoch(epochs),
            callbacks=callback,
            latest_checkpoint=latest,
        )
        torch.distributed.barrier()
        latest = trial.checkpoint_path
        best[epochs] = callback.best_model_path
        found[epochs] = Path(callback.best_model_path).read_bytes()
    assert best[1] == best[2]
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    with lightning_shim.patched():
        exchanged = with_machines_exchanged()
    lightning_shim.patch(trainer=True)
    saved = {"script": of_script(rank == 0), "exchanged": exchanged, "machine": os.environ["GROUP_RANK"]}
    torch.save(saved, f"{sys.argv[1]}/{rank}.pt")
