"""Modules as they were written for Lightning 1.x. Both versions import this file, so that it imports nothing else."""

from __future__ import annotations

from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


def numbers(samples: int, seed: int, steps: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, steps, 3) if steps else (samples, 3)
    inputs = torch.randn(shape, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=-1, keepdim=True))


class Former(pl.LightningModule):
    """What the modules have in common; each says here what it is trained with."""

    options: ClassVar[dict[str, Any]] = {}
    number_of_val_loaders = 1
    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.2), nn.Tanh(), nn.Linear(4, 1))

    def loss(self, batch: list[Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.mse_loss(self.layers(inputs), targets)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05)

    def train_dataloader(self) -> Any:
        return DataLoader(numbers(14, 1, self.steps), batch_size=4, shuffle=True)

    def val_dataloader(self) -> Any:
        loaders = [
            DataLoader(numbers(6, 2 + index, self.steps), batch_size=4) for index in range(self.number_of_val_loaders)
        ]
        return loaders if len(loaders) > 1 else loaders[0]


class EpochEnds(Former):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return {"loss": self.loss(batch), "mean": batch[0].mean()}

    def training_epoch_end(self, outputs: Any) -> None:
        self.log("mean_loss", torch.stack([output["loss"] for output in outputs]).mean())
        self.log("mean", torch.stack([output["mean"] for output in outputs]).sum())

    def on_train_epoch_end(self) -> None:
        self.log("after", float(self.current_epoch))

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_epoch_end(self, outputs: Any) -> None:
        self.log("val_loss", torch.stack(outputs).mean())

    def on_validation_epoch_end(self) -> None:
        self.log("val_after", 1.0)


class StepEnds(Former):
    def training_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def training_step_end(self, step_output: Any) -> Any:
        self.log("half", step_output / 2)
        return {"loss": step_output * 2, "kept": step_output.detach()}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("kept", outputs["kept"])

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        return self.loss(batch)

    def validation_step_end(self, output: Any) -> None:
        self.log("val_loss", output)

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int) -> None:
        self.log("val_output", outputs * 3)


class SeveralValidationLoaders(Former):
    number_of_val_loaders = 2

    def validation_step(self, batch: list[Tensor], batch_idx: int, dataloader_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("val_loss", loss)
        return {"loss": loss}

    def validation_epoch_end(self, outputs: Any) -> None:
        for index, of_loader in enumerate(outputs):
            self.log(f"val_{index}", torch.stack([output["loss"] for output in of_loader]).mean())


class Gan(Former):
    """Two optimizers in turn, a scheduler for each."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Linear(3, 3)
        self.discriminator = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int, optimizer_idx: int) -> Any:
        fake = self.generator(torch.randn_like(batch[0]))
        if optimizer_idx == 0:
            assert not any(parameter.requires_grad for parameter in self.discriminator.parameters())
            loss = -self.discriminator(fake).mean()
            self.log("generator_loss", loss, on_step=True, on_epoch=True)
        else:
            assert not any(parameter.requires_grad for parameter in self.generator.parameters())
            loss = self.discriminator(fake.detach()).mean() - self.discriminator(batch[0]).mean()
            self.log("discriminator_loss", loss, on_epoch=True)
        return {"loss": loss, "optimizer_idx": optimizer_idx}

    def training_epoch_end(self, outputs: Any) -> None:
        for batch in outputs:
            assert [output["optimizer_idx"] for output in batch] == [0, 1]
        self.log("last", outputs[-1][1]["loss"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("sum", sum(output["loss"] for output in outputs))

    def optimizers_of_parts(self) -> list[torch.optim.Optimizer]:
        return [
            torch.optim.Adam(self.generator.parameters(), lr=0.05),
            torch.optim.SGD(self.discriminator.parameters(), lr=0.05),
        ]

    def configure_optimizers(self) -> Any:
        optimizers = self.optimizers_of_parts()
        schedulers = [
            {"scheduler": torch.optim.lr_scheduler.StepLR(optimizers[0], 2, gamma=0.5), "interval": "step"},
            torch.optim.lr_scheduler.ExponentialLR(optimizers[1], 0.8),
        ]
        return optimizers, schedulers

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("val_loss", self.discriminator(batch[0]).mean())


class AccumulatingGan(Gan):
    options: ClassVar[dict[str, Any]] = {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}


class GanWithFrequencies(Gan):
    def training_epoch_end(self, outputs: Any) -> None:
        self.log("number", float(len(outputs)))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("present", float(len(outputs)))

    def configure_optimizers(self) -> Any:
        generator, discriminator = self.optimizers_of_parts()
        return (
            {
                "optimizer": generator,
                "frequency": 1,
                "lr_scheduler": {
                    "scheduler": torch.optim.lr_scheduler.StepLR(generator, 1, gamma=0.5),
                    "interval": "step",
                },
            },
            {"optimizer": discriminator, "frequency": 2},
        )


class SkippingGan(Gan):
    def training_step(self, batch: list[Tensor], batch_idx: int, optimizer_idx: int) -> Any:
        if (batch_idx + optimizer_idx) % 2:
            return None
        return super().training_step(batch, batch_idx, optimizer_idx)

    def training_epoch_end(self, outputs: Any) -> None:
        self.log("number", float(sum(len(batch) for batch in outputs)))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log("present", float(len(outputs)))


class AlternatingGan(Gan):
    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_idx: int,
        optimizer_closure: Any,
        on_tpu: bool,
        using_lbfgs: bool,
    ) -> None:
        assert not on_tpu
        assert not using_lbfgs
        if optimizer_idx == 0 or batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()


class FormerSignatures(Former):
    """Every hook that had the index of the optimizer, passed on to Lightning's own."""

    options: ClassVar[dict[str, Any]] = {"gradient_clip_val": 0.5}

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_idx: int = 0,
        optimizer_closure: Any = None,
        on_tpu: bool = False,
        using_lbfgs: bool = False,
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + self.trainer.global_step)
        super().optimizer_step(
            epoch, batch_idx, optimizer, optimizer_idx, optimizer_closure, on_tpu=on_tpu, using_lbfgs=using_lbfgs
        )

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_idx: int) -> None:
        super().optimizer_zero_grad(epoch, batch_idx, optimizer, optimizer_idx)

    def backward(self, loss: Any, optimizer: Any, optimizer_idx: Any, *args: Any, **kwargs: Any) -> None:
        super().backward(loss, optimizer, optimizer_idx, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Any, optimizer_idx: int) -> None:
        self.log("optimizer_idx", float(optimizer_idx))

    def configure_gradient_clipping(
        self, optimizer: Any, optimizer_idx: int, gradient_clip_val: Any, gradient_clip_algorithm: Any
    ) -> None:
        super().configure_gradient_clipping(optimizer, optimizer_idx, gradient_clip_val, gradient_clip_algorithm)

    def lr_scheduler_step(self, scheduler: Any, optimizer_idx: int, metric: Any) -> None:
        super().lr_scheduler_step(scheduler, optimizer_idx, metric)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {"optimizer": optimizer, "lr_scheduler": scheduler, "monitor": "val_loss"}


class Recurrent(Former):
    """Truncated backpropagation through time."""

    steps = 6

    def __init__(self) -> None:
        super().__init__()
        self.truncated_bptt_steps = 2
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def training_step(self, batch: list[Tensor], batch_idx: int, hiddens: Any) -> Any:
        inputs, targets = batch
        assert inputs.shape[1] == 2
        out, hiddens = self.lstm(inputs, hiddens)
        loss = nn.functional.mse_loss(self.head(out), targets)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return {"loss": loss, "hiddens": hiddens, "extra": loss.detach()}

    def training_epoch_end(self, outputs: Any) -> None:
        self.log("first", torch.stack([splits[0]["extra"] for splits in outputs]).mean())

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> Any:
        self.log("val_loss", nn.functional.mse_loss(self.head(self.lstm(batch[0])[0]), batch[1]))


class RecurrentWithTwoOptimizers(Recurrent):
    def training_step(self, batch: list[Tensor], batch_idx: int, optimizer_idx: int, hiddens: Any) -> Any:
        return super().training_step(batch, batch_idx, hiddens)

    def training_epoch_end(self, outputs: Any) -> None:
        self.log("first", torch.stack([splits[0][1]["extra"] for splits in outputs]).mean())

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.lstm.parameters(), lr=0.05), torch.optim.SGD(self.head.parameters(), lr=0.1)]


class RecurrentByHand(Recurrent):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], batch_idx: int, hiddens: Any) -> Any:
        output = super().training_step(batch, batch_idx, hiddens)
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(output["loss"])
        optimizer.step()
        return output


class SplitByHand(Recurrent):
    def tbptt_split_batch(self, batch: Any, split_size: int) -> Any:
        inputs, targets = batch
        return [[inputs[:, start : start + 2], targets[:, start : start + 2]] for start in (4, 2, 0)]


MODULES = {
    module.__name__: module
    for module in (
        EpochEnds,
        StepEnds,
        SeveralValidationLoaders,
        Gan,
        AccumulatingGan,
        GanWithFrequencies,
        SkippingGan,
        AlternatingGan,
        FormerSignatures,
        Recurrent,
        RecurrentWithTwoOptimizers,
        RecurrentByHand,
        SplitByHand,
    )
}
