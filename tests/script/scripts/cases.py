"""Arguments of Lightning's Trainer, by what they are about; callbacks are made anew each time."""

import datetime
import inspect

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor
from pytorch_lightning.loggers import CSVLogger

_CASES = {
    "default": {},
    "limits": {"limit_train_batches": 3, "limit_val_batches": 2},
    "fractions": {"limit_train_batches": 0.5, "limit_val_batches": 0.5},
    "overfit_batches": {"overfit_batches": 2, "limit_train_batches": 5},
    "overfit_batches of a few": {"overfit_batches": 0.3, "fast_dev_run": False},
    "no validation": {"limit_val_batches": 0},
    "fast_dev_run": {"fast_dev_run": True},
    "fast_dev_run of three": {"fast_dev_run": 3},
    "no sanity check": {"num_sanity_val_steps": 0},
    "whole sanity check": {"num_sanity_val_steps": -1},
    "batches between validations": {"val_check_interval": 3},
    "quarters of epochs": {"val_check_interval": 0.25},
    "every other epoch": {"check_val_every_n_epoch": 2, "max_epochs": 3},
    "batches of all epochs": {"check_val_every_n_epoch": None, "val_check_interval": 7},
    "steps": {"max_steps": 13, "max_epochs": -1},
    "steps before epochs": {"max_steps": 7},
    "epochs before steps": {"max_steps": 70},
    "accumulated steps": {"max_steps": 5, "accumulate_grad_batches": 3},
    "no epochs": {"max_epochs": 0},
    "min_epochs": {
        "min_epochs": 2,
        "max_epochs": 4,
        "callbacks": lambda: EarlyStopping("val_loss", stopping_threshold=1e3),
    },
    "min_steps": {
        "min_steps": 25,
        "max_epochs": 4,
        "callbacks": lambda: EarlyStopping("val_loss", stopping_threshold=1e3),
    },
    "stops early": {"max_epochs": 9, "callbacks": lambda: [EarlyStopping("val_loss", patience=1, min_delta=9.0)]},
    "max_time": {"max_time": {"days": 1}},
    "max_time is over": {"max_time": datetime.timedelta(0)},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "64-true": {"precision": 64},
    "bf16-true": {"precision": "bf16-true"},
    "accumulates": {"accumulate_grad_batches": 3},
    "clips norm": {"gradient_clip_val": 0.1},
    "clips values": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "detect_anomaly": {"detect_anomaly": True},
    "inference_mode": {"inference_mode": False},
    "reloads": {"reload_dataloaders_every_n_epochs": 1},
    "log_every_n_steps": {"log_every_n_steps": 3},
    "no loggers' steps": {
        "log_every_n_steps": 0,
        "logger": lambda: CSVLogger("csv"),
        "callbacks": lambda: LearningRateMonitor(),
        "enable_checkpointing": False,
    },
    "nothing enabled": {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_autolog_hparams": False,
    },
    "profiler": {"profiler": "simple"},
    "barebones": {"barebones": True},
    "one process": {"devices": 1, "num_nodes": 1, "strategy": "auto", "sync_batchnorm": True},
    "root": {"default_root_dir": "root"},
    "benchmark": {"benchmark": True},
    "deterministic": {"deterministic": True},
}

_KNOWN = inspect.signature(Trainer).parameters

CASES = {
    case: {name: value for name, value in arguments.items() if name in _KNOWN} for case, arguments in _CASES.items()
}
"""The cases, without arguments that the installed Lightning does not have."""
