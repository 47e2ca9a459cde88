"""The table of members: what happens to each member of Lightning's classes on Determined.

It has one row for each public member of the installed Lightning, and for each that Lightning has removed since 0.9.
Warnings, refusals and ``SUPPORT.md`` are made from it. Standard library only.

The kind of a row decides where it applies. A hook applies where a class overrides it. Everything else applies where it
is called or read, unless the user's class defines the name itself: a module's own ``summarize`` is not the method that
Lightning removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from lightning_shim.members.member import Kind, Member, Support

# Text rather than calls, so that a row fits on a line and the columns can be compared. Under each heading
# "[kind: support]", which may give the beginning of the sentences, a line has the names of members, their versions and
# their sentence. An indented line continues the one above; a ditto mark repeats the sentence above. The rows of Logger
# are those of Lightning's Logger and TensorBoardLogger.
_TABLE: Final = {
    "LightningModule": """
[hook: called]
training_step                 >=0.9       the trial calls it for every training batch and optimizes its loss.
validation_step               >=0.9       the trial calls it for every validation batch.
configure_optimizers          >=0.9       the trial calls it once, when the length of the training is known.
configure_callbacks           >=1.2       the trial calls it once and adds the callbacks that it returns.
configure_model               >=2.1       the trial calls it before configure_optimizers.
configure_sharded_model       >=1.3       the trial calls it like configure_model, and shards nothing.
prepare_data                  >=0.9       the trial calls it once per node, as prepare_data_per_node says.
setup                         >=0.9       the trial calls it on every process with the stage "fit".
teardown                      >=0.9       the trial calls it with the stage "fit" when training ends.
train_dataloader              >=0.9       the trial trains on it; the batch size is that of one slot.
val_dataloader                >=0.9       the trial validates on it; the batch size is that of one slot.
on_before_batch_transfer      >=1.2       the trial calls it for every batch of training and validation.
transfer_batch_to_device      >=0.9       "
on_after_batch_transfer       >=1.2       "
backward                      >=0.9       the trial calls it with the loss, scaled if the precision needs it.
optimizer_step                >=0.9       the trial calls it with a closure, as Lightning's Trainer does.
optimizer_zero_grad           >=0.9       the trial calls it where Lightning's Trainer does.
configure_gradient_clipping   >=1.5       the trial calls it before each optimizer step.
lr_scheduler_step             >=1.6       the trial calls it whenever a scheduler is due.
on_fit_start                  >=0.9       the trial calls it when training starts, and again after a pause.
on_fit_end                    >=0.9       the trial calls it where Lightning's Trainer does.
on_train_start                >=0.9       the trial calls it when training starts, and again after a pause.
on_train_end on_train_epoch_start  >=0.9  the trial calls it where Lightning's Trainer does.
on_train_epoch_end            >=0.9       the trial calls it after the validation at the end of the epoch.
on_train_batch_start          >=0.9       the trial calls it for every training batch; -1 ends the epoch.
on_train_batch_end on_before_zero_grad  >=0.9  the trial calls it where Lightning's Trainer does.
on_before_backward            >=1.4       "
on_after_backward             >=0.9       "
on_before_optimizer_step      >=1.4       "
on_validation_start on_validation_end  >=1.2  "
on_validation_epoch_start on_validation_epoch_end on_validation_batch_start on_validation_batch_end  >=0.9  "
on_validation_model_eval on_validation_model_train  >=1.0  "
on_validation_model_zero_grad >=2.1       "
on_save_checkpoint            >=0.9       the trial calls it whenever Determined writes a checkpoint.
on_load_checkpoint            >=0.9       the trial calls it when it continues from a checkpoint.
training_step_end validation_step_end  >=0.9,<2.0  the trial calls it where Lightning 1.9 did.
training_epoch_end            >=0.9,<2.0  the trial keeps what training_step returned and calls it with that.
validation_epoch_end          >=0.9,<2.0  the trial keeps what validation_step returned and calls it with that.
tbptt_split_batch             >=0.9,<2.0  the trial calls it if truncated_bptt_steps is set.
on_epoch_start                >=0.9,<1.8  the trial calls it before each epoch, as Lightning 1.x did.
on_epoch_end                  >=0.9,<1.8  the trial calls it after each epoch, as Lightning 1.x did.
on_pretrain_routine_start on_pretrain_routine_end
                              >=0.9,<1.8  the trial calls it before on_train_start, as Lightning 1.x did.
[method: backed]
log log_dict                  >=1.0       Determined reports it among its metrics, under Lightning's names.
print                         >=0.9       only rank 0 prints, above the progress bar if there is one.
optimizers                    >=1.0       it returns the optimizers that the trial steps.
lr_schedulers                 >=1.3       it returns the schedulers of the trial.
manual_backward               >=1.0       it runs the backward pass, scaled and synchronized.
toggle_optimizer              >=1.0       it acts on the parameters of the trial's optimizers.
untoggle_optimizer            >=1.2       "
toggled_optimizer             >=2.5.2     "
clip_gradients                >=1.5       it clips the gradients of the optimizer that it is given.
all_gather                    >=1.1       it gathers from all processes of the trial.
[property: backed]
trainer                       >=0.9       it is a stand-in with the members listed under Trainer.
logger                        >=0.9       it is a stand-in with the members listed under Logger.
loggers                       >=1.6       it is a list of the trial's own loggers and of that stand-in.
current_epoch                 >=0.9       it counts the trial's epochs from 0, through pauses.
global_step                   >=0.9       it counts the trial's optimizer steps from 0, through pauses.
global_rank                   >=1.1       it is the rank of this process in the trial.
local_rank                    >=1.1       it is the rank of this process on its node.
truncated_bptt_steps          >=1.3,<2.0  the trial splits each batch and passes hiddens on, as Lightning 1.9 did.
use_amp                       >=0.9,<1.8  it says whether the trial trains in mixed precision.
use_ddp                       >=0.9,<1.2  it says whether the trial has several processes.
use_ddp2 use_dp               >=0.9,<1.2  it is False, since Determined has no such backend.
use_tpu                       >=0.9,<1.2  it is False, since Determined has no TPUs.
precision                     >=0.9,<2.0  it is the trial's precision by the name of Lightning 1.x: 16, 32, 64 or
                                          "bf16".
[method: native]
forward                       >=0.9       it is your own code, called by your own code.
freeze unfreeze save_hyperparameters  >=0.9  it works as in Lightning.
remove_ignored_hparams        >=2.6       "
load_from_checkpoint          >=0.9       it works as in Lightning, on Determined's state_dict.pth as well.
to_onnx                       >=0.9       it works as in Lightning.
to_torchscript                >=0.10      "
to_tensorrt                   >=2.6       "
to cuda cpu                   >=0.9       it works as in Lightning; the trial chooses the device.
type float double half        >=0.9       it works as in Lightning; mixed precision is an option of the trial.
predict                       >=1.2,<1.3  it is your own code, called by your own code.
[property: native]
hparams                       >=0.9       it works as in Lightning.
hparams_initial               >=1.0       "
example_input_array           >=0.9       "
automatic_optimization        >=1.1       "
strict_loading                >=2.2       "
device dtype on_gpu           >=0.9       "
[attribute: native]
prepare_data_per_node         >=1.5       it decides where prepare_data is called, as in Lightning.
CHECKPOINT_HYPER_PARAMS_KEY CHECKPOINT_HYPER_PARAMS_NAME CHECKPOINT_HYPER_PARAMS_TYPE  >=0.9  it works as in Lightning.
[hook: ignored]
test_step test_dataloader     >=0.9       Determined trials have no test loop; call it by hand.
on_test_start on_test_end     >=1.2       "
on_test_epoch_start on_test_epoch_end on_test_batch_start on_test_batch_end  >=0.9  "
on_test_model_eval on_test_model_train  >=1.0  "
test_step_end test_epoch_end  >=0.9,<2.0  "
test_end                      >=0.9,<1.0  "
on_test_dataloader            >=1.3,<1.7  "
predict_step                  >=1.3       Determined trials have no predict loop; call it by hand.
predict_dataloader            >=1.2       "
on_predict_start on_predict_end on_predict_epoch_start on_predict_epoch_end on_predict_batch_start
    on_predict_batch_end  >=1.3  "
on_predict_model_eval         >=1.2       "
on_predict_dataloader         >=1.3,<1.7  "
get_progress_bar_dict         >=0.9,<1.7  the progress bar shows what is logged with prog_bar=True.
get_tqdm_dict                 >=0.9,<1.0  "
on_hpc_save                   >=0.9,<1.8  Determined writes the checkpoints; move its code to on_save_checkpoint.
on_hpc_load                   >=0.9,<1.8  Determined reads the checkpoints; move its code to on_load_checkpoint.
log_grad_norm                 >=1.4,<2.0  nothing tracks gradient norms; log them in on_before_optimizer_step.
configure_ddp                 >=0.9,<1.0  Determined wraps the module for distributed training.
init_ddp_connection           >=0.9,<1.0  Determined starts the process group.
add_to_queue get_from_queue   >=1.4,<1.7  Determined passes nothing back from spawned processes.
[hook: ignored] Lightning 2 does not call it either;
training_end                  >=0.9,<1.0  move its code to the end of training_step.
validation_end                >=0.9,<1.0  collect outputs in validation_step and use them in on_validation_epoch_end.
on_batch_start                >=0.9,<1.0  rename it to on_train_batch_start.
on_batch_end                  >=0.9,<1.0  rename it to on_train_batch_end.
on_pre_performance_check      >=0.9,<1.0  rename it to on_validation_start.
on_post_performance_check     >=0.9,<1.0  rename it to on_validation_end.
on_train_dataloader           >=1.3,<1.7  move its code to train_dataloader.
on_val_dataloader             >=1.3,<1.7  move its code to val_dataloader.
on_post_move_to_device        >=1.2,<1.7  tie weights in __init__, where they stay tied.
configure_sync_batchnorm      >=0.9,<1.0  convert the layers in configure_model.
[attribute: ignored]
allow_zero_length_dataloader_with_multiple_devices  >=1.5  every process of a trial needs at least one batch.
[property: refused]
fabric                        >=1.9       Determined trains the module, so Fabric cannot.
device_mesh                   >=2.3       Determined splits no module over devices.
[property: refused] it raises AttributeError, as in Lightning 2;
model_size                    >=1.2,<1.7  use Lightning's ModelSummary.
[attribute: refused] it raises AttributeError, as in Lightning 2;
datamodule                    >=0.9,<1.5  read self.trainer.datamodule.
loaded_optimizer_states_dict  >=0.9,<1.6  use on_load_checkpoint.
exp_save_path                 >=0.9,<1.3  read self.trainer.default_root_dir.
running_stage                 >=1.2,<1.3  read self.trainer.state.stage.
[hook: refused]
configure_apex amp_scale_loss >=0.9,<1.0  the trial does not use Apex; give it a precision such as "16-mixed".
[method: refused] it raises AttributeError, as in Lightning 2;
grad_norm                     >=0.9,<1.5  use Lightning's utilities.grad_norm.
summarize                     >=0.9,<1.7  use Lightning's ModelSummary.
write_prediction write_prediction_dict  >=1.0,<1.5  write the file yourself.
manual_optimizer_step         >=1.0,<1.2  call optimizer.step.
tng_dataloader                >=0.9,<1.0  call train_dataloader.
from_compiled to_uncompiled   >=1.8.4,<2.0 use torch.compile.
""",
    "LightningDataModule": """
[hook: called]
prepare_data                  >=0.9       the trial calls it once per node, as prepare_data_per_node says.
setup                         >=0.9       the trial calls it on every process with the stage "fit".
teardown                      >=1.3       the trial calls it with the stage "fit" when training ends.
train_dataloader              >=0.9       the trial trains on it; the batch size is that of one slot.
val_dataloader                >=0.9       the trial validates on it; the batch size is that of one slot.
on_before_batch_transfer      >=1.2       the trial calls it for every batch of training and validation.
transfer_batch_to_device      >=0.9       "
on_after_batch_transfer       >=1.2       "
state_dict                    >=1.6       the trial calls it whenever Determined writes a checkpoint.
load_state_dict               >=1.6       the trial calls it when it continues from a checkpoint.
on_exception                  >=2.3       the trial calls it when training raises an error.
[attribute: backed]
trainer                       >=1.0       it is a stand-in with the members listed under Trainer.
[method: native]
from_datasets                 >=1.2       it works as in Lightning.
save_hyperparameters          >=1.4       "
remove_ignored_hparams        >=2.6       "
load_from_checkpoint          >=1.6       "
[property: native]
hparams hparams_initial       >=1.4       it works as in Lightning.
[attribute: native]
name                          >=0.9       it works as in Lightning.
prepare_data_per_node         >=1.5       it decides where prepare_data is called, as in Lightning.
CHECKPOINT_HYPER_PARAMS_KEY CHECKPOINT_HYPER_PARAMS_NAME CHECKPOINT_HYPER_PARAMS_TYPE  >=1.6  it works as in Lightning.
[hook: ignored]
test_dataloader               >=0.9       Determined trials have no test loop; call it by hand.
on_test_dataloader            >=1.3,<1.7  "
predict_dataloader            >=1.2       Determined trials have no predict loop; call it by hand.
on_predict_dataloader         >=1.3,<1.7  "
[hook: ignored] Lightning 2 does not call it either;
on_save_checkpoint            >=1.0,<1.8  return the state from state_dict.
on_load_checkpoint            >=1.0,<1.8  take the state in load_state_dict.
on_train_dataloader           >=1.3,<1.7  move its code to train_dataloader.
on_val_dataloader             >=1.3,<1.7  move its code to val_dataloader.
[attribute: ignored]
allow_zero_length_dataloader_with_multiple_devices  >=1.5  every process of a trial needs at least one batch.
[method: refused] it raises AttributeError, as in Lightning 2;
add_argparse_args from_argparse_args  >=0.9,<2.0  hyperparameters reach __init__ by name.
parse_argparser               >=1.8,<2.0  "
get_init_arguments_and_types  >=0.9,<2.0  "
size                          >=0.9,<1.7  keep an attribute of your own.
[property: refused] it raises AttributeError, as in Lightning 2;
dims train_transforms val_transforms test_transforms  >=0.9,<1.7  keep an attribute of your own.
has_prepared_data has_setup_fit  >=0.9,<1.6  "
has_setup_validate            >=1.3,<1.6  "
has_setup_test                >=0.9,<1.6  "
has_setup_predict has_teardown_fit has_teardown_validate has_teardown_test has_teardown_predict  >=1.3,<1.6  "
""",
    "Trainer": """
[property: backed]
_results                      >=1.5       it has the metrics of the current stage, and the batch that they belong to.
current_epoch                 >=0.9       it counts the trial's epochs from 0, through pauses.
global_step                   >=0.9       it counts the trial's optimizer steps from 0, through pauses.
max_epochs                    >=0.9       it is the trial's length in epochs, or -1 if that is in batches.
max_steps                     >=0.9       it is the trial's length in optimizer steps, or -1 if that is in epochs.
min_epochs min_steps          >=0.9       it is what the trial was given.
estimated_stepping_batches    >=1.6       it is the number of optimizer steps of the whole trial.
num_training_batches          >=0.9       it is the number of training batches of an epoch on this process.
num_val_batches               >=0.9       it is a list of the numbers of batches of the validation loaders.
num_sanity_val_batches        >=1.0       it is a list of the numbers of batches in the sanity check.
is_last_batch                 >=1.3       it says whether the batch is the last one of its epoch.
train_dataloader              >=0.9       it is the loader that the trial trains on.
val_dataloaders               >=0.9       it is the loader, or the loaders, that the trial validates on.
enable_validation             >=0.9       it says whether the trial has validation data and a validation_step.
world_size                    >=0.9       it is the number of processes of the trial, one per slot.
num_devices                   >=1.6       it is the number of slots of the trial on this node.
num_nodes                     >=0.9       it is the number of nodes of the trial.
distributed_sampler_kwargs    >=1.2       it has world_size and global_rank; without DDP it is None.
device_ids                    >=1.6       it numbers the slots of the trial on this node.
global_rank                   >=0.9       it is the rank of this process in the trial.
local_rank                    >=0.9       it is the rank of this process on its node.
node_rank                     >=0.9       it is the rank of this node in the trial.
is_global_zero                >=0.9       it says whether this process has rank 0.
training                      >=1.2       it says whether the trial is training now.
validating                    >=1.3       it says whether the trial is validating now.
evaluating                    >=1.2       "
sanity_checking               >=1.3       it says whether the sanity check is running.
testing                       >=0.9       it is False, since Determined trials have no test loop.
predicting                    >=1.2       it is False, since Determined trials have no predict loop.
interrupted                   >=0.9       it is True once an error or Ctrl+C has ended the training.
received_sigterm              >=2.0       it is False, since Determined handles that signal.
ckpt_path                     >=1.6       it is the Lightning checkpoint that the trial starts from, or None.
lightning_module              >=1.2       it is your module.
model                         >=0.9       it is the module itself, on several processes as well.
optimizers                    >=0.9       it is a list of the optimizers that the trial steps.
lr_scheduler_configs          >=1.6       it is a list of the trial's schedulers and of when they are due.
callback_metrics logged_metrics  >=0.9  it holds the values that were logged last, by name.
progress_bar_metrics          >=0.9       it holds the values that were last logged with prog_bar=True, by name.
logger                        >=0.9       it is a stand-in with the members listed under Logger.
loggers                       >=1.6       it is a list of the trial's own loggers and of that stand-in.
log_dir                       >=1.2       it is the directory that TensorBoard's files go to.
default_root_dir              >=0.9       it is what the trial was given, or the working directory.
accelerator                   >=1.2       it is Lightning's Accelerator for the device of this process.
strategy                      >=1.6       it has reduce, barrier, broadcast, all_gather and root_device.
precision                     >=0.9       it is the precision that the trial was given, such as "16-mixed".
precision_plugin              >=1.2       it casts and scales as the trial's precision requires.
scaler                        >=0.9       it is the gradient scaler of mixed precision, or None.
checkpoint_callback           >=0.9       it is the trial's first callback that writes checkpoints, or None.
checkpoint_callbacks          >=1.0       it is a list of the trial's callbacks that write checkpoints.
early_stopping_callback       >=1.2       it is the trial's first EarlyStopping callback, or None.
early_stopping_callbacks      >=1.2       it is a list of the trial's EarlyStopping callbacks.
progress_bar_callback         >=0.9       it is the progress bar among the callbacks, or None.
use_amp                       >=0.9,<1.8  it says whether the trial trains in mixed precision.
use_dp                        >=0.9,<1.4  it is False, since Determined has no such backend.
use_ddp                       >=0.9,<1.4  it says whether the trial has several processes.
use_ddp2                      >=0.9,<1.4  it is False, since Determined has no such backend.
use_horovod                   >=0.9,<1.4  it is False, since gradients are synchronized by PyTorch.
use_tpu on_tpu                >=0.9,<1.4  it is False, since Determined has no TPUs.
use_single_gpu                >=0.9,<1.4  it says whether the trial has one GPU.
on_gpu                        >=0.9,<1.4  it says whether the trial's device is a GPU.
gpus num_gpus                 >=0.9,<1.8  it is the number of GPUs of the trial on this node.
num_processes                 >=0.9,<1.8  it is the number of slots of the trial on this node.
devices                       >=1.4,<1.8  "
tpu_cores                     >=0.9,<1.8  it is None, since Determined has no such device.
ipus                          >=1.4,<1.8  "
root_gpu                      >=0.9,<1.8  it is the index of this process's GPU, or None.
data_parallel                 >=0.9,<2.0  it says whether the trial has several processes.
data_parallel_device_ids      >=0.9,<1.8  it numbers the GPUs of the trial on this node, or is None.
amp_backend                   >=0.9,<2.0  it is "native" in mixed precision, otherwise None.
distributed_backend           >=0.9,<1.5  it is "ddp" if the trial has several processes, or None.
lr_schedulers                 >=0.9,<1.8  it is a list of the trial's schedulers, as dictionaries.
lightning_optimizers          >=1.2,<1.8  it holds the wrapped optimizers by their index.
optimizer_frequencies         >=0.9,<2.0  it is what configure_optimizers returned.
running_sanity_check          >=0.9,<1.5  it says whether the sanity check is running.
disable_validation            >=0.9,<1.6  it says whether the trial has nothing to validate.
progress_bar_dict             >=0.9,<1.7  it holds the values that were last logged with prog_bar=True, by name.
early_stop_callback           >=0.9,<1.0  it is the trial's first EarlyStopping callback, or None.
should_rank_save_checkpoint   >=1.4,<1.8  it says whether this process has rank 0.
tuning                        >=1.2,<2.0  it is False, since Determined searches hyperparameters.
terminate_on_nan              >=0.9,<1.7  it is False, since a trial does not check the loss.
slurm_job_id                  >=0.9,<1.7  it is None, since Determined runs the trial.
resume_from_checkpoint        >=0.9,<2.0  it is the Lightning checkpoint that the trial starts from, or None.
[method: backed]
print                         >=2.1       only rank 0 prints, above the progress bar if there is one.
save_checkpoint               >=0.9       it writes a Lightning checkpoint on rank 0; Determined writes its own.
get_model                     >=0.9,<1.4  it returns your module.
[attribute: backed]
_data_connector               >=1.5       Lightning's own methods find the transfer hooks through it and nothing else.
_logger_connector             >=1.6       it has should_update_logs and log_metrics, and nothing else.
val_check_interval            >=0.9       it is the validation_period in batches, or 1.0 if that is in epochs.
check_val_every_n_epoch       >=0.9       it is the validation_period in epochs, or None if that is in batches.
val_check_batch               >=0.9       it is the number of batches between two validations.
datamodule                    >=0.9       it is the LightningDataModule that the trial was given, or None.
callbacks                     >=0.9       it is a list of the trial's Lightning callbacks.
state                         >=0.9       it holds the stage and the status, as in Lightning's Trainer.
should_stop                   >=0.9       setting it to True ends the trial through Determined, where Lightning would.
accumulate_grad_batches       >=0.9       it is what the trial was given; callbacks may set it for the batches to come.
gradient_clip_val             >=0.9       it is what the trial was given.
gradient_clip_algorithm       >=1.3       "
limit_train_batches limit_val_batches  >=0.9  "
reload_dataloaders_every_n_epochs  >=1.4  "
log_every_n_steps             >=0.10      it is the number of batches between two reports to Determined.
num_sanity_val_steps          >=0.9       it is what the trial was given.
fast_dev_run                  >=0.9       it is a script's own Trainer's; otherwise it is False.
overfit_batches               >=0.9       it is what the trial was given.
barebones                     >=2.0       it is a script's own Trainer's; otherwise it is False.
profiler                      >=0.9       it is a script's own Trainer's; otherwise it does nothing.
fit_loop                      >=1.4       it has the loaders, and the counts of its epoch_loop and val_loop; max_epochs
                                          can be set before training starts.
[property: ignored]
test_dataloaders num_test_batches  >=0.9  it is None, since Determined trials have no test loop.
predict_dataloaders num_predict_batches  >=1.2  it is None, since Determined trials have no predict loop.
[attribute: ignored]
limit_test_batches            >=0.9       it is None, since Determined trials have no test loop.
limit_predict_batches         >=1.2       it is None, since Determined trials have no predict loop.
enable_autolog_hparams        >=2.6       it is None; Determined keeps the hyperparameters.
[method: refused]
fit                           >=0.9       Determined runs the training; a trial cannot start another one.
validate                      >=1.3       Determined runs the validation; set its validation_period.
test                          >=0.9       Determined trials have no test loop; use Lightning's Trainer after training.
predict                       >=1.2       Determined trials have no predict loop; use Lightning's Trainer after
                                          training.
init_module                   >=2.1       the trial does not build modules for you; build them in configure_model.
[method: refused] it raises AttributeError, as in Lightning 2;
call_hook                     >=1.0,<1.8  call the hook itself.
tune                          >=0.10,<2.0 use Determined's searcher.
run_stage                     >=1.3,<1.8  Determined runs the stages.
reset_train_dataloader reset_val_dataloader reset_test_dataloader  >=0.9,<2.0  a trial makes its loaders once.
reset_predict_dataloader      >=1.2,<2.0  "
reset_train_val_dataloaders   >=1.4,<1.9  "
[attribute: refused]
validate_loop                 >=1.4       Determined runs the loop; read validating and num_val_batches.
test_loop                     >=1.4       Determined trials have no test loop.
predict_loop                  >=1.2       Determined trials have no predict loop.
_accelerator_connector _callback_connector  >=1.5  it is a private part of Lightning's Trainer, which is not here.
_checkpoint_connector _signal_connector  >=1.6  "
[attribute: refused] it raises AttributeError, as in Lightning 2;
batch_idx                     >=0.9,<1.0  training_step gets it as an argument.
total_batch_idx               >=0.9,<1.0  read global_step.
replace_sampler_ddp           >=0.9,<1.3  the trial shards the data.
track_grad_norm               >=0.9,<2.0  log the norms in on_before_optimizer_step.
tuner                         >=1.0,<2.0  use Determined's searcher.
weights_summary               >=0.9,<1.7  use Lightning's ModelSummary.
[attribute: refused]
accelerator_connector checkpoint_connector  >=1.0,<1.6  it is a private part of Lightning's Trainer, which is not here.
data_connector                >=1.0,<1.5  "
logger_connector              >=1.0,<1.6  "
[property: refused] it raises AttributeError, as in Lightning 2;
accelerator_backend           >=0.9,<1.4  read strategy.
training_type_plugin          >=1.2,<1.8  "
train_loop                    >=1.0,<1.6  read current_epoch.
prediction_writer_callbacks   >=1.3,<2.0  read callbacks.
weights_save_path             >=0.9,<1.8  Determined keeps the checkpoints.
validated_ckpt_path           >=1.3,<1.8  Determined chooses what to continue from.
tested_ckpt_path              >=0.9,<1.8  "
predicted_ckpt_path           >=1.4,<1.8  "
verbose_evaluate              >=1.3,<1.8  Determined shows the metrics.
""",
    "Logger": """
[property: backed]
experiment                    >=0.9       it is Determined's TensorBoard writer, silent except on rank 0.
name                          >=0.9       it is "lightning_logs", as in Lightning.
version                       >=0.9       it is the number of the run's directory, on a cluster that of the trial.
log_dir                       >=0.9       it is the directory of TensorBoard's files, None except on rank 0.
save_dir                      >=0.9       it is self.trainer.default_root_dir, as in Lightning.
root_dir                      >=0.9       it is lightning_logs in self.trainer.default_root_dir, as in Lightning.
group_separator               >=1.5       it is "/", as in Lightning.
[method: backed]
log_metrics                   >=0.9       it reports the values to Determined and to its TensorBoard.
log_hyperparams               >=0.9       it writes them as text to Determined's TensorBoard.
log_graph                     >=0.9       it writes the module's graph to Determined's TensorBoard.
save                          >=0.9       it does nothing; Determined saves the files of TensorBoard.
finalize                      >=0.9       it does nothing; Determined closes its TensorBoard writer.
after_save_checkpoint         >=1.4       it does nothing; Determined keeps the checkpoints.
[property: refused]
sub_dir                       >=1.4       TensorBoard's files lie in one directory; read log_dir.
[attribute: refused]
hparams                       >=0.9       the logger keeps no hyperparameters; read the module's hparams.
LOGGER_JOIN_CHAR              >=1.2       the logger joins no names.
NAME_HPARAMS_FILE             >=0.9       the logger writes no such file; Determined keeps hyperparameters.
[method: refused] it raises AttributeError, as in Lightning 2;
log_image                     >=1.5,<1.6  call experiment.add_image.
log_text                      >=1.5,<1.6  call experiment.add_text.
agg_and_log_metrics           >=0.9,<1.8  call log_metrics.
update_agg_funcs              >=0.9,<1.8  aggregate them yourself.
close                         >=0.9,<1.7  Determined closes its TensorBoard writer.
""",
    "Callback": """
[hook: called]
on_sanity_check_start on_sanity_check_end
                              >=0.9       the trial calls it where Lightning's Trainer does, and not after a pause.
setup                         >=0.9       the trial calls it on every process with the stage "fit".
teardown                      >=0.9       the trial calls it with the stage "fit" when training ends.
on_fit_start                  >=0.9       the trial calls it when training starts, and again after a pause; on a
                                          callback with a state when that has been loaded.
on_fit_end                    >=0.9       the trial calls it where Lightning's Trainer does.
on_train_start                >=0.9       the trial calls it when training starts, and again after a pause.
on_train_end on_train_epoch_start  >=0.9  the trial calls it where Lightning's Trainer does.
on_train_epoch_end            >=0.9       the trial calls it after the validation at the end of the epoch.
on_train_batch_start on_train_batch_end  >=0.9  the trial calls it where Lightning's Trainer does.
on_before_zero_grad           >=1.2       "
on_before_backward            >=1.4       "
on_after_backward             >=1.2       "
on_before_optimizer_step      >=1.4       "
on_validation_start on_validation_end on_validation_epoch_start on_validation_epoch_end on_validation_batch_start
    on_validation_batch_end  >=0.9  "
on_exception                  >=1.5       the trial calls it when training raises an error.
on_save_checkpoint            >=1.0       the trial calls it whenever Determined writes a checkpoint.
state_dict                    >=1.6       "
on_load_checkpoint            >=1.0       the trial calls it when it continues from a checkpoint.
load_state_dict               >=1.6       "
on_epoch_start                >=0.9,<1.8  the trial calls it before each epoch, as Lightning 1.x did.
on_epoch_end                  >=0.9,<1.8  the trial calls it after each epoch, as Lightning 1.x did.
on_batch_start                >=0.9,<1.8  the trial calls it before on_train_batch_start, as Lightning 1.x did.
on_batch_end                  >=0.9,<1.8  the trial calls it after on_train_batch_end, as Lightning 1.x did.
on_pretrain_routine_start on_pretrain_routine_end
                              >=0.9,<1.8  the trial calls it before on_train_start, as Lightning 1.x did.
[property: native]
state_key                     >=1.5       it names the callback's state in the checkpoint, as in Lightning.
[hook: ignored]
on_test_start on_test_end on_test_epoch_start on_test_epoch_end on_test_batch_start on_test_batch_end
                              >=0.9       Determined trials have no test loop.
on_predict_start on_predict_end on_predict_epoch_start on_predict_epoch_end on_predict_batch_start
    on_predict_batch_end  >=1.3  Determined trials have no predict loop.
on_init_start on_init_end     >=0.9,<1.8  callbacks join when the trial is built; move its code to setup.
on_before_accelerator_backend_setup  >=1.1,<1.8  "
on_configure_sharded_model    >=1.3,<1.8  "
on_keyboard_interrupt         >=0.9,<1.7  Determined handles interruptions; use on_exception for errors.
""",
    "callbacks": """
[class: refused]
LearningRateFinder BatchSizeFinder  >=1.9  it trains by itself; off-cluster a script's own Trainer may have it.
[class: ignored]
BasePredictionWriter          >=1.3       a trial predicts nothing.
[class: native]
Callback                      >=0.9       the trial calls the hooks of the user's own callbacks.
ProgressBar                   >=0.9       the trial calls its hooks, and shows no progress bar of its own.
RichProgressBar               >=1.4       "
TQDMProgressBar               >=1.5       "
EarlyStopping                 >=0.9       it stops the trial through Determined.
GradientAccumulationScheduler >=0.9       it works as in Lightning.
BaseFinetuning BackboneFinetuning  >=1.1  "
StochasticWeightAveraging     >=1.2       "
WeightAveraging EMAWeightAveraging  >=2.6  "
ModelPruning                  >=1.2       it works as in Lightning; a trial's checkpoint has the masks as well.
SpikeDetection                >=2.2       it works as in Lightning; a trial's checkpoint has the running mean as well.
Checkpoint                    >=1.5       the trial calls its hooks.
LambdaCallback                >=0.9       "
ModelCheckpoint               >=0.9       it writes its files as in Lightning; Determined's checkpoints hold copies.
OnExceptionCheckpoint         >=1.8       it writes its file as in Lightning, on the machine of rank 0.
LearningRateMonitor           >=0.9       it logs to the group "logger" of Determined's metrics and to TensorBoard.
DeviceStatsMonitor            >=1.5       "
ThroughputMonitor             >=2.2       "
ModelSummary RichModelSummary >=1.5       it prints its summary.
Timer                         >=1.3       it stops the trial through Determined.
""",
}

OWNERS: Final = tuple(_TABLE)
"""The classes that have members; ``"callbacks"`` stands for Lightning's package of them."""


def _rows(owner: str, text: str) -> Iterator[Member]:
    sentence = ""
    for line in re.sub(r"\n +", " ", text.strip()).splitlines():
        if heading := re.fullmatch(r"\[(\w+): (\w+)\] ?(.*)", line):
            kind, support, beginning = Kind(heading[1]), Support(heading[2]), heading[3]
            continue
        names, versions, rest = re.split(r" +(>=\S+) +", line)
        sentence = sentence if rest == '"' else f"{beginning} {rest}".lstrip()
        yield from (Member(owner, name, kind, support, sentence, versions) for name in names.split())


MEMBERS: Final = tuple(row for owner, text in _TABLE.items() for row in _rows(owner, text))
