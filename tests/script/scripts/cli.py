"""A script whose Trainer, module and data LightningCLI makes from the command line and from files."""

import torch
from plain import LitData, LitModel
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.cli import LightningCLI


class LitLayers(LitModel):
    def __init__(self, learning_rate: float = 0.05, hidden: int = 8):
        super().__init__(learning_rate, hidden)


class CLI(LightningCLI):
    def add_arguments_to_parser(self, parser):
        parser.add_lightning_class_args(EarlyStopping, "stopping")
        parser.set_defaults({"stopping.monitor": "val_loss", "stopping.patience": 5})


if __name__ == "__main__":
    cli = CLI(LitLayers, LitData, seed_everything_default=3)
    trainer = cli.trainer
    torch.save(
        {
            "weights": cli.model.state_dict(),
            "hparams": dict(cli.model.hparams),
            "random": torch.get_rng_state(),
            "metrics": dict(trainer.callback_metrics),
            "logged": dict(trainer.logged_metrics),
            "epoch": trainer.current_epoch,
            "step": trainer.global_step,
            "callbacks": [type(callback).__name__ for callback in trainer.callbacks],
        },
        "results.pt",
    )
