"""A module and data of which every part can be chosen, for cases that combine them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from tests.parity.modules import dataset
from tests.parity.oracle import WAYS_TO_RECORD

Combination = Mapping[str, Any]
"""One value for each of ``DIMENSIONS``."""

EPOCHS = 2
BATCHES = 6
"""The batches of an epoch, whatever the loader."""
STOPS_AFTER = 3
"""The batches that are trained of an epoch that ends early."""

DIMENSIONS: dict[str, tuple[Any, ...]] = {
    "optimization": (
        "one optimizer",
        "step schedule and warm-up",
        "plateau",
        "one cycle",
        "LBFGS",
        "manual, two optimizers",
        "None for some batches",
        "no optimizer",
    ),
    "accumulate_grad_batches": (1, 3),
    "clipping": (None, "norm", "value"),
    "precision": ("32-true", "64-true", "bf16-mixed"),
    "validation": ("each epoch", "every 4 batches", "two loaders", "none"),
    "limit": ("none", "train", "val"),
    "loaders": ("map-style", "iterable", "dictionary", "data module"),
    "workers": (0, 2),
    "recording": tuple(WAYS_TO_RECORD),
    "hooks_log": (False, True),
    "ends_early": (False, True),
    "namespace": ("pytorch_lightning", "lightning.pytorch"),
}


def module_class(combination: Combination) -> type:
    """Makes a LightningModule of the combination's namespace, with what the combination asks for."""
    base = importlib.import_module(combination["namespace"]).LightningModule
    validates = combination["validation"] != "none"

    class Combined(base):  # type: ignore[misc,valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, 1))

        def loss(self, batch: Any) -> Tensor:
            parts = list(batch.values()) if isinstance(batch, dict) else [batch]
            losses = [nn.functional.mse_loss(self.layers(inputs), targets) for inputs, targets in parts]
            return sum(losses[1:], losses[0])

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss = self.loss(batch)
            self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=4)
            self.log_dict(
                {"largest": loss, "batch_idx": float(batch_idx)}, on_epoch=True, reduce_fx="max", batch_size=4
            )
            return {"loss": loss, "batch_idx": batch_idx}

    parts = [Combined, *_OPTIMIZATION[combination["optimization"]]]
    if validates:
        parts.append(_ValidatesSeveral if combination["validation"] == "two loaders" else _Validates)
    if combination["hooks_log"]:
        parts.append(_LogsInHooks)
    if combination["ends_early"]:
        parts.append(_EndsEarly)
    attributes = {"monitor": "val_mean" if validates else "loss_epoch"}
    return type("Combined", tuple(reversed(parts)), attributes)


class _Validates:
    def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def on_validation_epoch_end(self: Any) -> None:
        self.log("val_mean", sum(parameter.detach().float().mean() for parameter in self.parameters()))


class _ValidatesSeveral(_Validates):
    def validation_step(self: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch) + dataloader_idx)
        self.log(f"val_batches_{dataloader_idx}", 1.0, reduce_fx="sum", add_dataloader_idx=False)


class _LogsInHooks:
    def on_before_optimizer_step(self: Any, optimizer: Any) -> None:
        gradients = [parameter.grad.norm() for parameter in self.parameters() if parameter.grad is not None]
        self.log("gradient", float(sum(gradients)), on_step=True, on_epoch=True, batch_size=1)

    def on_train_epoch_end(self: Any) -> None:
        self.log("epoch", float(self.current_epoch + self.trainer.callback_metrics["largest"]), batch_size=1)

    def on_validation_epoch_end(self: Any) -> None:
        super().on_validation_epoch_end()  # type: ignore[misc]
        self.log("val_steps", float(self.global_step), prog_bar=True, batch_size=1)


class _EndsEarly:
    def on_train_batch_start(self: Any, batch: Any, batch_idx: int) -> int | None:
        return -1 if batch_idx == STOPS_AFTER else None


class _OneOptimizer:
    def configure_optimizers(self: Any) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.01)


class _WarmsUp:
    def optimizer_step(self: Any, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any) -> None:
        optimizer.step(closure=optimizer_closure)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * min(1.0, (self.trainer.global_step + 1) / 4)

    def configure_optimizers(self: Any) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class _Plateau:
    def configure_optimizers(self: Any) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": self.monitor}


class _OneCycle:
    def configure_optimizers(self: Any) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.05, total_steps=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class _LimitedMemory:
    def configure_optimizers(self: Any) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=2)


class _Manual:
    """Takes two optimizers in turn, of which one adds up gradients by hand."""

    automatic_optimization = False

    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        first, second = self.optimizers()
        outputs = super().training_step(batch, batch_idx)  # type: ignore[misc]
        self.manual_backward(outputs["loss"] / 2)
        self.clip_gradients(first, gradient_clip_val=0.5, gradient_clip_algorithm="norm")
        first.step()
        first.zero_grad()
        if batch_idx % 2 or self.trainer.is_last_batch:
            second.step()
            second.zero_grad()
        if self.trainer.is_last_batch:
            self.lr_schedulers().step()
        return outputs

    def configure_optimizers(self: Any) -> Any:
        first = torch.optim.Adam(self.layers[0].parameters(), lr=0.01)
        second = torch.optim.SGD(self.layers[4].parameters(), lr=0.1)
        return [first, second], [torch.optim.lr_scheduler.ExponentialLR(second, 0.5)]


class _SkipsBatches(_OneOptimizer):
    def training_step(self: Any, batch: Any, batch_idx: int) -> Any:
        outputs = super().training_step(batch, batch_idx)  # type: ignore[misc]
        return None if batch_idx % 3 == 1 else outputs


class _NoOptimizer:
    def configure_optimizers(self: Any) -> None:
        return None


_OPTIMIZATION: dict[str, tuple[type, ...]] = {
    "one optimizer": (_OneOptimizer,),
    "step schedule and warm-up": (_WarmsUp,),
    "plateau": (_Plateau,),
    "one cycle": (_OneCycle,),
    "LBFGS": (_LimitedMemory,),
    "manual, two optimizers": (_Manual,),
    "None for some batches": (_SkipsBatches,),
    "no optimizer": (_NoOptimizer,),
}


class Stream(IterableDataset[Any]):
    """Has no length; workers share its batches."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        samples = list(dataset(4 * BATCHES))
        return iter(samples if worker is None else samples[worker.id :: worker.num_workers])


def data(combination: Combination) -> Callable[[], dict[str, Any]]:
    """Returns what makes the arguments for ``fit``: loaders, or a data module."""
    workers = {"num_workers": combination["workers"], "persistent_workers": combination["workers"] > 0}

    def train() -> Any:
        if combination["loaders"] == "iterable":
            return DataLoader(Stream(), batch_size=4, **workers)
        longest = DataLoader(dataset(22), batch_size=4, shuffle=True, **workers)
        if combination["loaders"] == "dictionary":
            # The shorter one starts again.
            return {"long": longest, "short": DataLoader(dataset(8, seed=5), batch_size=2, shuffle=True)}
        return longest

    def validation() -> Any:
        loader = DataLoader(dataset(10, seed=4), batch_size=4, **workers)
        second = DataLoader(dataset(6, seed=6), batch_size=4)
        return [loader, second] if combination["validation"] == "two loaders" else loader

    validates = combination["validation"] != "none"
    if combination["loaders"] == "data module":
        return lambda: {"datamodule": _datamodule(combination["namespace"], train, validation if validates else None)}
    return lambda: {"train_dataloaders": train(), **({"val_dataloaders": validation()} if validates else {})}


def _datamodule(namespace: str, train: Callable[[], Any], validation: Callable[[], Any] | None) -> Any:
    base = importlib.import_module(namespace).LightningDataModule

    class Data(base):  # type: ignore[misc,valid-type]
        def train_dataloader(self) -> Any:
            return train()

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            inputs, targets = batch
            return [inputs * 1.5, targets]

    if validation is not None:
        Data.val_dataloader = lambda self: validation()
    return Data()
