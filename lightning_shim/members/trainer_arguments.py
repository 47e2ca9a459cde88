"""The table of Trainer arguments: what happens to each argument of a script's ``Trainer`` on Determined.

It has one row for each argument. Warnings and refusals are made from it, and docs/from_trainer.md is tested against it.
Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from lightning_shim.members.member import Support


@dataclass(frozen=True, slots=True)
class Argument:
    """One row of the table."""

    name: str
    # Its level of support: `NATIVE` if the script's own Trainer applies it, `BACKED` if the trial does, `IGNORED` if a
    # value other than the default has no effect.
    support: Support
    sentence: str  # what happens, as one sentence that can follow a colon


# One row a line: name, support, sentence. A ditto mark repeats the sentence of the row above.
_TABLE: Final = """
accelerator     ignored  Determined chooses the device: the trial's GPUs; off-cluster a GPU if there is one.
strategy        backed   "auto", "ddp", its variants and DDPStrategy train as one process per slot; others are refused.
devices         ignored  resources.slots_per_trial decides it; off-cluster torchrun does.
num_nodes       ignored  "
precision       backed   the trial trains in it.
logger          backed   each logger gets what it would get from Lightning, the default one too.
callbacks       backed   the trial calls them; SUPPORT.md says which of Lightning's own run.
fast_dev_run    backed   the trial is as short as in Lightning.
max_epochs      backed   it is the length of the trial.
min_epochs      backed   the trial does not stop earlier.
max_steps       backed   it is the length of the trial.
min_steps       backed   the trial does not stop earlier.
max_time        backed   the Timer callback stops the trial.
limit_train_batches     backed  it is the length of the trial's epochs; with 0 nothing is trained.
limit_val_batches       backed  it is the length of the trial's validations.
limit_test_batches      native  it applies to trainer.test.
limit_predict_batches   native  it applies to trainer.predict.
overfit_batches         backed  it is the length of epochs and validations, and samplers are replaced as in Lightning.
val_check_interval      backed  it is the period of the trial's validations, also by the clock.
check_val_every_n_epoch backed  it is the period of the trial's validations.
num_sanity_val_steps    backed  the trial validates that many batches before it trains, and not again after a pause.
log_every_n_steps       backed  it is the period of the trial's reports.
enable_checkpointing    backed  ModelCheckpoint runs as in Lightning; on a cluster Determined writes its own besides.
enable_progress_bar     backed  Lightning's progress bar draws off-cluster; in the log of a cluster it does not.
enable_model_summary    backed  the summary is printed.
accumulate_grad_batches backed  the trial accumulates as Lightning does.
gradient_clip_val       backed  the trial clips as Lightning does.
gradient_clip_algorithm backed  "
deterministic           native  the script's Trainer sets PyTorch's switches.
benchmark               native  "
inference_mode          native  it applies to validate and test after fit; the trial validates under torch.no_grad().
use_distributed_sampler backed  the trial shards the samples as Lightning does.
profiler                backed  it measures as in Lightning; the report is in the log and, on a cluster, the checkpoint.
detect_anomaly          backed  the trial trains with it.
barebones               backed  the trial does without all that Lightning switches off, and reports nothing.
plugins                 backed   those of checkpoints and of the trial's precisions are used; most others are refused.
sync_batchnorm          backed  the trial synchronizes batch normalization as Lightning does.
reload_dataloaders_every_n_epochs  backed  the trial asks for the loaders as Lightning does.
default_root_dir        backed  all files are below it, but for what Determined keeps on a cluster.
enable_autolog_hparams  backed  the script's loggers get the hyperparameters unless it is False.
model_registry          ignored register a checkpoint with det model register-version.
"""


def _rows() -> dict[str, Argument]:
    rows: dict[str, Argument] = {}
    sentence = ""
    for line in _TABLE.strip().splitlines():
        name, support, text = line.split(maxsplit=2)
        sentence = sentence if text == '"' else text
        rows[name] = Argument(name, Support(support), sentence)
    return rows


def is_switched_off(value: Any) -> bool:
    """Whether a value of an argument switches a feature off, so that it needs no support."""
    return value in (None, False, "auto", 0) or (isinstance(value, list) and not value)


ARGUMENTS: Final = _rows()
"""The rows by the argument's name, in the order of Lightning's signature."""
