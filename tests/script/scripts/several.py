"""A script with several Trainers: what each leaves, the next one starts from; some evaluate before they fit."""

import copy
import sys

import pytorch_lightning as pl
import torch
from plain import LitData
from plain import LitModel as LitPlain
from pytorch_lightning.callbacks import ModelCheckpoint


class LitModel(LitPlain):
    """Has a scheduler that a longer training can go on with."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)]


def new_trainer(max_epochs):
    checkpoints = ModelCheckpoint("checkpoints", monitor="val_loss", save_top_k=2, save_last=True)
    return pl.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        callbacks=[checkpoints],
        log_every_n_steps=2,
        accumulate_grad_batches=3,
    )


def state(trainer, model):
    return {
        "weights": copy.deepcopy(model.state_dict()),
        "optimizers": copy.deepcopy([optimizer.state_dict() for optimizer in trainer.optimizers]),
        "random": torch.get_rng_state(),
        "metrics": dict(trainer.callback_metrics),
        "logged": dict(trainer.logged_metrics),
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
        "best": trainer.checkpoint_callback.best_model_score,
        "best_path": trainer.checkpoint_callback.best_model_path.rpartition("/")[2],
        "grad": torch.is_grad_enabled(),
        "training": model.training,
    }


pl.seed_everything(11)
results = {}

# Evaluates before it fits, in the same Trainer.
model, data, first = LitModel(), LitData(), new_trainer(2)
results["validated"] = first.validate(model, data)
results["tested"] = first.test(model, datamodule=data)
first.fit(model, datamodule=data)
results["first"] = state(first, model)

# From the best checkpoint of the first one, with a model that knows nothing of it.
second, other = new_trainer(4), LitModel()
second.fit(other, datamodule=LitData(), ckpt_path=first.checkpoint_callback.best_model_path)
results["second"] = state(second, other)

# From the last one, which the Trainer finds by itself.
third, third_model = new_trainer(5), LitModel()
third.fit(third_model, datamodule=LitData(), ckpt_path="last")
results["third"] = state(third, third_model)

# On with the same module, under a Trainer that starts counting anew.
fourth = new_trainer(1)
fourth.fit(third_model, train_dataloaders=data.train_dataloader(), val_dataloaders=data.val_dataloader())
results["fourth"] = state(fourth, third_model)
results["afterwards"] = fourth.validate(third_model, data, ckpt_path="best")
fourth.save_checkpoint("own.ckpt")

# From a checkpoint that the script has written itself, by its path; a training may be done already.
fifth, fifth_model = new_trainer(int(sys.argv[1])), LitModel()
fifth.fit(fifth_model, datamodule=data, ckpt_path="own.ckpt")
results["fifth"] = state(fifth, fifth_model)
torch.save(results, "results.pt")
