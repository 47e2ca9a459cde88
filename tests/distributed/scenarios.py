"""What is trained on two processes, by Determined and by Lightning's DDP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.strategies import DDPStrategy
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.distributed import sampling
from tests.distributed.sampling import HOOKS
from tests.parity.modules import Regression, StepsWithClosure, dataset, loaders
from tests.support.installed_versions import has_lightning


@rank_zero_only
def on_rank_zero() -> str:
    return "ran"


class Synchronised(Regression):
    """Logs with and without synchronisation, and asks for what the processes have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.facts: dict[str, Any] = {}

    def on_train_start(self) -> None:
        strategy, rank = self.trainer.strategy, torch.tensor(float(self.global_rank))
        strategy.barrier()
        self.facts.update(
            ranks=(self.global_rank, self.local_rank, self.trainer.node_rank, self.trainer.is_global_zero),
            world=(self.trainer.world_size, self.trainer.num_devices, self.trainer.num_nodes),
            gathered=self.all_gather({"rank": rank, "pair": rank.expand(2)}),
            reduced={name: strategy.reduce(rank + 1, reduce_op=name) for name in ("mean", "sum")},
            broadcast=[strategy.broadcast(f"rank {self.global_rank}", src) for src in (0, 1)],
            decided=[strategy.reduce_boolean_decision(self.global_rank == 0, all=all) for all in (True, False)],
            rank_zero=(rank_zero_only.rank, on_rank_zero()),
        )

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("synchronised", loss, on_step=False, on_epoch=True, sync_dist=True)
        self.log("synchronised_sum", loss, on_step=True, on_epoch=True, sync_dist=True, reduce_fx="sum")
        self.log("rank", float(self.global_rank))
        return loss


class ReadsEpochValues(Synchronised):
    """Reads the values of an epoch in the hooks at its end, and in a callback that comes before them."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("own", float(self.global_rank), on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("val_synchronised", loss, sync_dist=True)
        self.log("val_most", loss, sync_dist=True, reduce_fx="max")
        super().validation_step(batch, batch_idx)

    def read(self, *names: str) -> None:
        metrics = self.trainer.callback_metrics
        self.facts.setdefault("read", []).append({name: float(metrics[name]) for name in names})

    def on_validation_epoch_end(self) -> None:
        self.read("val_synchronised", "val_most", "val_loss")

    def on_train_epoch_end(self) -> None:
        self.read("synchronised", "synchronised_sum_epoch", "own")
        self.log("at_the_end", float(self.global_rank + self.current_epoch), sync_dist=True)


class Follows(pl.Callback):
    """Reads the same, before the module does."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.read("synchronised", "synchronised_sum_epoch", "val_synchronised")


class Plateau(Synchronised):
    """Follows a step's value of all processes: after one of its own, each would have a learning rate of its own."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        self.log("step", loss if self.current_epoch else loss.item(), sync_dist=True)
        self.log("largest", loss, on_step=True, sync_dist=True, reduce_fx="max")
        self.log("smallest", loss, on_step=True, sync_dist=True, reduce_fx=min)
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return [optimizer], [{"scheduler": plateau, "interval": "step", "monitor": "step"}]


class GathersGradients(Synchronised):
    """Its loss is made of what all processes have computed."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        means = self.all_gather(self(inputs).mean(), sync_grads=True)
        return means.square().sum() + nn.functional.mse_loss(self(inputs), targets)


class MeasuresWithTorchmetrics(Synchronised):
    def __init__(self) -> None:
        super().__init__()
        self.errors = nn.ModuleDict({stage: torchmetrics.MeanSquaredError() for stage in ("in_training", "in_test")})
        self.validated: list[Tensor] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        self.errors["in_training"](self(inputs), targets)
        self.log("error", self.errors["in_training"], on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        self.errors["in_test"].update(self(inputs), targets)
        self.log("val_error", self.errors["in_test"])
        super().validation_step(batch, batch_idx)


class UsesOneOfTwoHeads(Synchronised):
    """Each process leaves another head unused, and one head is used by neither now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        inputs, targets = batch
        head = self.heads[(self.global_rank + batch_idx) % 3]
        return nn.functional.mse_loss(head(self(inputs)), targets)


class BuffersOfItsOwn(Synchronised):
    """What a process writes into a buffer is replaced by what rank 0 has, when the next step begins."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.facts.setdefault("seen", []).append(self.seen.item())
        self.seen += 1 + self.global_rank
        return super().training_step(batch, batch_idx)


class Manual(Synchronised):
    """Goes backward twice a step, and steps by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for _ in range(2):
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
        self.clip_gradients(optimizer, gradient_clip_val=0.5)
        optimizer.step()
        return loss


class GoesBackwardByHand(Manual):
    """Goes backward once a step."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class AccumulatesByHand(Manual):
    """Synchronises the gradients of two batches at once, and those of others for each batch."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        optimizer = self.optimizers()
        steps = batch_idx % 2 == 1 or self.trainer.is_last_batch
        with optimizer.toggle_model(sync_grad=steps or self.current_epoch == 1):
            self.manual_backward(self.loss(batch) / 2)
            self.facts.setdefault("gradients", []).append(self.layers[0].weight.grad.clone())
        if steps:
            optimizer.step()
            optimizer.zero_grad()


class Closures(StepsWithClosure, Synchronised):
    """Synchronises the gradients of what an optimizer calls."""


class Switches(Synchronised):
    """Turns automatic optimization on and off."""

    def on_train_batch_start(self, batch: list[Tensor], batch_idx: int) -> None:
        self.automatic_optimization = batch_idx % 2 == 0

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss


class Adversarial(Synchronised):
    """Two optimizers that take turns, as a GAN's do."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(1, 1)

    def losses(self, batch: list[Tensor]) -> Iterator[Callable[[], Tensor]]:
        inputs, targets = batch
        yield lambda: -self.critic(self(inputs)).mean()
        yield lambda: self.critic(self(inputs).detach()).square().mean() - self.critic(targets).mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        for optimizer, loss in zip(self.optimizers(), self.losses(batch), strict=True):
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        networks = (self.layers, self.critic)
        return [torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.5, 0.9)) for network in networks]


class FormerAdversarial(Adversarial):
    """The same as a module of Lightning 1.x, which Lightning 2 refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = True

    def training_step(self, batch: list[Tensor], batch_idx: int, optimizer_idx: int) -> Any:
        return list(self.losses(batch))[optimizer_idx]()


class WithoutBatchNorm(Adversarial):
    """Buffers are synchronised for each call of ``training_step``, and in Lightning 1.x there is one more of those."""

    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = nn.Identity()


class FormerWithoutBatchNorm(FormerAdversarial):
    def __init__(self) -> None:
        super().__init__()
        self.layers[1] = nn.Identity()


class Uneven(IterableDataset[Any]):
    """Gives rank 0 more samples than rank 1."""

    def __init__(self, owner: pl.LightningModule) -> None:
        self._owner = owner

    def __iter__(self) -> Iterator[Any]:
        first = self._owner.global_rank == 0
        samples = dataset(10, seed=4)
        return iter([samples[index] for index in (range(7) if first else range(7, 10))])


class UnevenShards(Synchronised):
    def val_dataloader(self) -> Any:
        return DataLoader(Uneven(self), batch_size=2)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        super().validation_step(batch, batch_idx)
        self.log("samples", float(len(batch[0])), reduce_fx="sum")


class Shares(Synchronised):
    """Keeps what it trains on."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.facts.setdefault("batches", []).append(batch)
        return super().training_step(batch, batch_idx)


def giving(make: Callable[[], DataLoader[Any]]) -> type[Any]:
    """Makes a module that brings its own training loader."""
    return type("Brings", (Shares,), {"train_dataloader": lambda self: make()})


class BringsBatchesOfFour(Synchronised):
    def train_dataloader(self) -> Any:  # here: train_dataloader
        return DataLoader(dataset(), batch_size=4)


class StopsOnOneProcess(Synchronised):
    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_rank == 0 and self.global_step == 2:
            self.trainer.should_stop = True


def no_train_loaders() -> dict[str, Any]:
    return {"val_dataloaders": loaders()["val_dataloaders"]}


def no_val_loaders() -> dict[str, Any]:
    return {"train_dataloaders": loaders()["train_dataloaders"]}


@dataclass(frozen=True)
class Scenario:
    """A training of a few epochs.

    Attributes:
        module: What Determined trains.
        theirs: What Lightning trains; by default the same.
        options: The options of both.
        find_unused_parameters: Whether it is said to DistributedDataParallel.
        data: Makes the loaders.
        callbacks: Makes the callbacks, which may write into a folder.
        epochs: How many there are.
    """

    module: type[Any]
    theirs: type[Any] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    find_unused_parameters: bool = False
    data: Callable[[], dict[str, Any]] = loaders
    callbacks: Callable[[Path], list[Any]] = lambda folder: []
    epochs: int = 2


class Collects(pl.Callback):
    """A user's own: it has a state, logs, and asks for what the processes have in common."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]))
        self.log("callback_loss", outputs["loss"], on_step=True, on_epoch=True, sync_dist=True)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["val_loss"]))
        least = trainer.strategy.reduce(torch.tensor(self.losses[-1]), reduce_op="sum")
        self.seen.append(float(least))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == 2:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "seen": self.seen}


class Validated(Synchronised):
    """Has one value of a validation on all processes, under Lightning too."""

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log_dict({"val_loss": self.loss(batch), "val_batch": float(batch_idx)}, sync_dist=True)


CALLBACKS: dict[str, Callable[[Path], list[Any]]] = {
    "EarlyStopping": lambda folder: [EarlyStopping("val_loss", patience=1, min_delta=100.0)],
    "ModelCheckpoint": lambda folder: [
        ModelCheckpoint(folder, "{epoch}-{val_loss:.6f}", monitor="val_loss", save_top_k=2, save_last=True)
    ],
    "StochasticWeightAveraging": lambda folder: [StochasticWeightAveraging(0.04, 2)],
    "own callback": lambda folder: [Collects()],
}
if has_lightning(">=2.6"):
    CALLBACKS["WeightAveraging"] = lambda folder: [pl.callbacks.WeightAveraging()]
    CALLBACKS["EMAWeightAveraging"] = lambda folder: [pl.callbacks.EMAWeightAveraging(decay=0.5)]

STATIC_GRAPH = {"static_graph": True, "gradient_as_bucket_view": True}
PROCESS_GROUP: dict[str, Any] = {"process_group_backend": "gloo", "timeout": timedelta(minutes=5)}

SCENARIOS = {
    # The first one makes the process group.
    "automatic": Scenario(
        Synchronised,
        options={
            "accumulate_grad_batches": 2,
            "gradient_clip_val": 0.5,
            "strategy": DDPStrategy(**PROCESS_GROUP),
        },
    ),
    "plateau": Scenario(Plateau),
    "epoch values": Scenario(
        ReadsEpochValues,
        callbacks=lambda folder: [Follows(), EarlyStopping("at_the_end", patience=1, check_on_train_epoch_end=True)],
        epochs=4,
    ),
    "gathers gradients": Scenario(GathersGradients),
    "torchmetrics": Scenario(MeasuresWithTorchmetrics),
    "unused parameters": Scenario(UsesOneOfTwoHeads, find_unused_parameters=True),
    "unused parameters of an object": Scenario(
        UsesOneOfTwoHeads, options={"strategy": DDPStrategy(find_unused_parameters=True)}
    ),
    "static graph": Scenario(Synchronised, options={"strategy": DDPStrategy(**STATIC_GRAPH)}),
    # Before 2.6 the Trainer does not synchronise the gradients of the first step.
    **(
        {"static graph by hand": Scenario(GoesBackwardByHand, options={"strategy": DDPStrategy(**STATIC_GRAPH)})}
        if has_lightning(">=2.6")
        else {}
    ),
    "buffers": Scenario(BuffersOfItsOwn),
    "manual": Scenario(Manual),
    "accumulation by hand": Scenario(AccumulatesByHand),
    "closures": Scenario(Closures),
    "switches": Scenario(Switches),
    "adversarial": Scenario(Adversarial, find_unused_parameters=True),
    "former": Scenario(FormerWithoutBatchNorm, theirs=WithoutBatchNorm, find_unused_parameters=True),
    "uneven shards": Scenario(UnevenShards, data=no_val_loaders),
    **{name: Scenario(Shares, data=data) for name, data in sampling.DATA.items()},
    **{name: Scenario(giving(make), data=no_train_loaders) for name, make in HOOKS.items()},
    "loader of Determined's": Scenario(
        giving(sampling.determineds_loader), giving(HOOKS["weights of a hook"]), data=no_train_loaders
    ),
    **{name: Scenario(Validated, callbacks=make, epochs=4) for name, make in CALLBACKS.items()},
    "the same samples": Scenario(Shares, options={"overfit_batches": 2}),
    "nothing shared": Scenario(Shares, options={"use_distributed_sampler": False}),
}

REFUSED = {
    # PyTorch's SyncBatchNorm needs GPUs.
    "sync_batchnorm": Scenario(Synchronised, options={"sync_batchnorm": True}),
    "unused parameters that nobody looks for": Scenario(UsesOneOfTwoHeads),
    "batch sampler": Scenario(Shares, data=lambda: sampling.training(batch_size=1, batch_sampler=sampling.NoBatches())),
    "loader": Scenario(Shares, data=lambda: {"train_dataloaders": sampling.Repeats(12, repeats=2)}),
    "loader of a hook": Scenario(giving(sampling.without_length), data=no_train_loaders),
}
