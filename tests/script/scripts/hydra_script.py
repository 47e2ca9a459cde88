"""A script whose configuration is hydra's, with a folder of its own for each run."""

import os

import hydra
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from plain import LitData, LitModel


@hydra.main(config_path=".", config_name="hydra_config", version_base=None)
def main(config):
    pl.seed_everything(config.seed)
    model = LitModel(**config.model)
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False)
    trainer.fit(model, LitData())
    torch.save(
        {
            "config": OmegaConf.to_container(config),
            "weights": model.state_dict(),
            "folder": os.path.basename(os.getcwd()),
        },
        "results-0.pt",
    )


if __name__ == "__main__":
    main()
