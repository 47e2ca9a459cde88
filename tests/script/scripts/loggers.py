"""A script with callbacks and loggers of its own."""

import sys

import torch
from plain import LitData, LitModel
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import BasePredictionWriter, EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger


class Writer(BasePredictionWriter):
    def write_on_epoch_end(self, trainer, pl_module, predictions, batch_indices):
        self.written = predictions


seed_everything(int(sys.argv[1]))
model = LitModel(hidden=4)
checkpoints = ModelCheckpoint(monitor="val_loss", save_top_k=2)
writer = Writer("epoch")
trainer = Trainer(
    max_epochs=6,
    min_epochs=2,
    accelerator="cpu",
    callbacks=[EarlyStopping("val_loss", patience=1), checkpoints, LearningRateMonitor(), writer],
    logger=[CSVLogger("logs", name="csv"), TensorBoardLogger("logs", name="board")],
    log_every_n_steps=3,
    val_check_interval=0.5,
    accumulate_grad_batches=2,
    num_sanity_val_steps=1,
)
trainer.fit(model, LitData())
trainer.predict(model, LitData())
torch.save(
    {
        "weights": model.state_dict(),
        "random": torch.get_rng_state(),
        "logged": dict(trainer.logged_metrics),
        "epoch": trainer.current_epoch,
        "step": trainer.global_step,
        "best": float(trainer.checkpoint_callback.best_model_score),
        "written": writer.written,
        "callbacks": [type(callback).__name__ for callback in trainer.callbacks],
        "loggers": [type(logger).__name__ for logger in trainer.loggers],
    },
    "results.pt",
)
