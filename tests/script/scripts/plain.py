"""A script as a user of Lightning writes it."""

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset


class LitModel(pl.LightningModule):
    def __init__(self, learning_rate=0.05, hidden=8):
        super().__init__()
        self.save_hyperparameters()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(5, hidden), torch.nn.Dropout(0.2), torch.nn.ReLU(), torch.nn.Linear(hidden, 1)
        )

    def loss(self, batch):
        inputs, targets = batch
        return (self.layers(inputs) - targets).square().mean()  # mse_loss of torch 2.3 knows no bfloat16 on a CPU

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch), prog_bar=True)

    def test_step(self, batch, batch_idx):
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch, batch_idx):
        return self.layers(batch[0])

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.1, total_steps=self.trainer.estimated_stepping_batches
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class LitData(pl.LightningDataModule):
    dtype = torch.float32

    def setup(self, stage):
        inputs = torch.randn(40, 5, dtype=self.dtype)
        self.dataset = TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))

    def train_dataloader(self):
        return DataLoader(self.dataset, batch_size=4, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.dataset, batch_size=8)

    def test_dataloader(self):
        return DataLoader(self.dataset, batch_size=8)

    def predict_dataloader(self):
        return DataLoader(self.dataset, batch_size=8)


def main():
    pl.seed_everything(42)
    model = LitModel()
    datamodule = LitData()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        log_every_n_steps=5,
        gradient_clip_val=0.5,
        limit_test_batches=3,
        limit_predict_batches=2,
    )
    trainer.fit(model, datamodule=datamodule)
    torch.save(
        {
            "weights": model.state_dict(),
            "hparams": dict(model.hparams),
            "random": torch.get_rng_state(),
            "metrics": dict(trainer.callback_metrics),
            "logged": dict(trainer.logged_metrics),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "status": str(trainer.state.status),
            "is_own": model.trainer is trainer,
            "datamodule": trainer.datamodule is datamodule,
            "test": trainer.test(model, datamodule=datamodule),
            "best": trainer.test(datamodule=datamodule, ckpt_path="best"),
            "validate": trainer.validate(datamodule=datamodule),
            "predict": trainer.predict(datamodule=datamodule),
        },
        "results.pt",
    )
    trainer.save_checkpoint("final.ckpt")


if __name__ == "__main__":
    main()
