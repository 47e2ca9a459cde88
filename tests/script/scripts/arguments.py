"""A script that makes many a Trainer, each with other arguments."""

import copy
import os
import warnings

import pytorch_lightning as pl
import torch
from cases import CASES
from plain import LitData, LitModel

ATTRIBUTES = (
    "callback_metrics",
    "logged_metrics",
    "progress_bar_metrics",
    "current_epoch",
    "global_step",
    "should_stop",
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "num_training_batches",
    "num_val_batches",
    "num_sanity_val_batches",
    "num_test_batches",
    "num_predict_batches",
    "is_last_batch",
    "estimated_stepping_batches",
    "val_check_batch",
    "val_check_interval",
    "check_val_every_n_epoch",
    "log_every_n_steps",
    "limit_train_batches",
    "limit_val_batches",
    "fast_dev_run",
    "overfit_batches",
    "num_sanity_val_steps",
    "accumulate_grad_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
    "precision",
    "reload_dataloaders_every_n_epochs",
    "training",
    "validating",
    "testing",
    "sanity_checking",
    "interrupted",
    "barebones",
    "enable_validation",
    "world_size",
    "num_devices",
    "is_global_zero",
    "lr_scheduler_configs",
    "train_dataloader",
    "val_dataloaders",
    "callbacks",
    "ckpt_path",
)


def described(value):
    """Loaders by their length, callbacks and schedulers by their class."""
    if isinstance(value, torch.utils.data.DataLoader):
        return len(value), type(value.sampler).__name__
    if isinstance(value, list) and value and not isinstance(value[0], (int, float)):
        return [type(each).__name__ for each in value]
    return value


def relative(path):
    return os.path.relpath(path) if path else ""


results = {}
for name, arguments in CASES.items():
    arguments = {"max_epochs": 2, "accelerator": "cpu", "logger": False, **arguments}
    arguments = {key: value() if callable(value) else value for key, value in arguments.items()}
    pl.seed_everything(3)
    model = LitModel()
    LitData.dtype = {"64-true": torch.float64, "bf16-true": torch.bfloat16}.get(name, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(**arguments)
        trainer.fit(model, LitData())
    results[name] = {
        "arguments": sorted(arguments),
        "weights": copy.deepcopy(model.state_dict()),
        "random": torch.get_rng_state(),
        "gradient": torch.is_grad_enabled(),
        "training": model.training,
        "switches": (torch.is_anomaly_enabled(), torch.backends.cudnn.benchmark),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        **{attribute: described(getattr(trainer, attribute)) for attribute in ATTRIBUTES},
        "state": (trainer.state.fn, trainer.state.status, trainer.state.stage),
        "model": trainer.model is model and trainer.lightning_module is model and model.trainer is trainer,
        "datamodule": type(trainer.datamodule).__name__,
        "best": getattr(trainer.checkpoint_callback, "best_model_score", None),
        "path": relative(getattr(trainer.checkpoint_callback, "best_model_path", "")),
        "root": relative(trainer.default_root_dir),
        "validated": [
            {key: float(value) for key, value in each.items()}
            for each in trainer.validate(model, LitData(), verbose=False)
        ],
    }
torch.save(results, "results.pt")
