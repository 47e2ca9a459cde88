"""Calls fit with the keyword arguments that the experiment's configuration has under `data`."""

import determined as det
from determined import pytorch

import lightning_shim
from model import LitData, LitModel, save

UNITS = {"batches": pytorch.Batch, "epochs": pytorch.Epoch}


def argument(value):
    return UNITS[value[0]](value[1]) if isinstance(value, list) else value


options = {name: argument(value) for name, value in det.get_cluster_info().user_data.items()}
trial = lightning_shim.fit(LitModel, datamodule=LitData, **options)
save(trial.module, trial.trainer, is_complete=trial.is_complete, is_profiled=trial.module.is_profiled)
