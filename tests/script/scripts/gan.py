"""A script with manual optimization of two networks."""

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader


class GAN(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator = nn.Linear(2, 3), nn.Linear(3, 1)

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        loss = nn.functional.softplus(-self.discriminator(self.generator(torch.randn(len(batch), 2)))).mean()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        fake = self.generator(torch.randn(len(batch), 2)).detach()
        other = nn.functional.softplus(self.discriminator(fake) - self.discriminator(batch)).mean()
        second.zero_grad()
        self.manual_backward(other)
        second.step()
        self.log_dict({"generator": loss, "discriminator": other}, prog_bar=True)

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), lr=0.1) for part in (self.generator, self.discriminator)]


pl.seed_everything(1)
model = GAN()
trainer = pl.Trainer(
    max_steps=22,
    accelerator="cpu",
    enable_checkpointing=False,
    log_every_n_steps=1,
    callbacks=pl.callbacks.TQDMProgressBar(),
)
trainer.fit(model, DataLoader(torch.randn(30, 3), batch_size=4, shuffle=True))
torch.save({"weights": model.state_dict(), "random": torch.get_rng_state(), "step": trainer.global_step}, "results.pt")
