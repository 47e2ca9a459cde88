"""A module of the days of Lightning 1.2, to see what `python -m lightning_shim check` says of it."""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional


class LitClassifier(pl.LightningModule):
    """A linear classifier. What Lightning 2 no longer has is left as it was."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Linear(784, classes)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self.network(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def training_epoch_end(self, outputs: list[dict[str, Tensor]]) -> None:
        self.logger.experiment.add_histogram("weights", self.network.weight, self.current_epoch)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        logits = self.network(images)
        self.log("val_loss", functional.cross_entropy(logits, labels))
        self.write_prediction("digits", logits.argmax(dim=1))

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.log("test_loss", functional.cross_entropy(self.network(images), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)
