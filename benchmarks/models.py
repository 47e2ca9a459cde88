"""The models that are trained, each as a plain PyTorch module, and the LightningModule around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


class Transformer(nn.Module):
    """A small language model: two layers, of which the dropout is off so that all contestants compute the same."""

    def __init__(self, vocabulary: int = 64, width: int = 64, length: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, nhead=4, dim_feedforward=128, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=2, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns logits, of shape ``(batch, vocabulary, length)``, for tokens of shape ``(batch, length)``."""
        logits: Tensor = self.head(self.encoder(self.embedding(tokens) + self.positions))
        return logits.transpose(1, 2)


def _linear() -> nn.Module:
    return nn.Linear(16, 1)


def _convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 10),
    )


@dataclass(frozen=True)
class Subject:
    """A model with its data.

    Attributes:
        name: How the table calls it.
        model: Makes the model.
        loss: Computes the loss from the model's output and the target.
        batch: Makes a batch: input and target.
        steps: Steps that are timed in one run.
    """

    name: str
    model: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: Callable[[], Batch]
    steps: int


def _regression() -> Batch:
    return torch.randn(4, 16), torch.randn(4, 1)


def _images() -> Batch:
    return torch.rand(32, 1, 28, 28), torch.randint(10, (32,))


def _tokens() -> Batch:
    return torch.randint(64, (8, 32)), torch.randint(64, (8, 32))


SUBJECTS: Final = (
    Subject("linear", _linear, functional.mse_loss, _regression, steps=500),
    Subject("convnet", _convnet, functional.cross_entropy, _images, steps=100),
    Subject("transformer", Transformer, functional.cross_entropy, _tokens, steps=60),
)


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Makes the optimizer that every contestant uses."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def names_of(logs: int) -> list[str]:
    """Returns the names that are logged in a step."""
    return [f"loss_{index}" for index in range(logs)]


class LossModule(nn.Module):
    """What all contestants compute.

    Args:
        subject: The model.
    """

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.model = subject.model()
        self._loss = subject.loss

    def forward(self, batch: Batch) -> Tensor:
        """Computes the loss of a batch."""
        inputs, targets = batch
        return self._loss(self.model(inputs), targets)


class BenchmarkModule(pl.LightningModule):
    """The LightningModule that both Lightning's Trainer and LightningTrial train.

    Args:
        subject: The model.
        logs: Calls of ``self.log`` in a step.
    """

    def __init__(self, subject: Subject, logs: int) -> None:
        super().__init__()
        self.loss_of = LossModule(subject)
        self._names = names_of(logs)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss and logs it under each of the names."""
        loss: Tensor = self.loss_of(batch)
        for name in self._names:
            self.log(name, loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        """Makes the optimizer."""
        return optimizer_of(self)


class ValidatedModule(BenchmarkModule):
    """The same with a validation."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Computes the loss and logs it under each of the names."""
        loss = self.loss_of(batch)
        for name in self._names:
            self.log(name, loss, on_step=True, on_epoch=True)
