"""Preparation of a module for training, in Lightning's order."""

from __future__ import annotations

import torch
from determined import pytorch

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import definition_location
from lightning_shim.lightning1.hook_arguments import takes_argument
from lightning_shim.loop.configured_optimizers import read_optimizers
from lightning_shim.loop.forward_redirection import ForwardRedirection
from lightning_shim.loop.runtime import Runtime
from lightning_shim.upstream.determined.context import wrap_model
from lightning_shim.upstream.lightning import announce_device, is_overridden
from lightning_shim.upstream.lightning_plugins import layer_sync_of
from lightning_shim.upstream.lightning_strategy import StrategySettings
from lightning_shim.upstream.lightning_trainer import start_profiler


def configure_module(runtime: Runtime) -> None:
    """Calls the hooks that a module is complete after; a checkpoint may then be loaded into it."""
    session, hooks, strategy = runtime.session, runtime.hooks, runtime.strategy
    module, precision = session.module, strategy.precision_plugin
    if session.is_distributed:
        # As Lightning's DDPStrategy does once its processes have joined: from here on all draw the same numbers.
        session.lightning.reset_seed()
    if session.profiling.is_on:
        start_profiler(session.script_trainer, session.trainer)
    _prepare_data(runtime)
    announce_device(module, strategy.root_device)
    strategy.barrier("pre_setup")
    hooks.call_for_stage("setup", session.lightning.TrainerFn.FITTING)
    strategy.barrier("post_setup")
    with strategy.root_device, precision.module_init_context():
        hooks.module("configure_sharded_model")
        hooks.module("configure_model")


def prepare_training(runtime: Runtime) -> None:
    """Gives module and optimizers to Determined, up to the hook that says so."""
    session, hooks, strategy = runtime.session, runtime.hooks, runtime.strategy
    module, options, precision = session.module, session.options, strategy.precision_plugin
    if options.sync_batchnorm and session.is_distributed:
        _synchronise_layers(runtime)
    precision.convert_module(module).to(strategy.root_device)
    if precision.scaler is not None:
        # Determined expects the scaler before the model.
        session.context.wrap_scaler(precision.scaler)
    # Lightning 1.x looked for unused parameters by default, and with optimizers in turn each leaves the others' unused.
    find_unused_parameters = options.find_unused_parameters or takes_argument(module.training_step, "optimizer_idx")
    settings = StrategySettings.of(options.strategy)
    arguments = {"find_unused_parameters": find_unused_parameters, **settings.ddp_arguments}
    model = wrap_model(session.context, ForwardRedirection(module), session.is_distributed, **arguments)
    if session.is_distributed:
        settings.register_comm_hook(model, module)
        strategy.set_model(model)
    _configure_optimizers(runtime)
    # The hooks called above may have assigned others to the module, as may on_fit_start.
    hooks.refresh()
    hooks.call("on_fit_start")
    hooks.refresh_if_changed()
    module.zero_grad()


def _synchronise_layers(runtime: Runtime) -> None:
    session, strategy = runtime.session, runtime.strategy
    module = session.module
    layer_sync = layer_sync_of(session.script_trainer, session.lightning.plugins)
    layer_sync.apply(module)
    # A script's own DDP of one process does it when its Trainer is given what has been trained.
    if session.script_trainer is None or strategy.world_size > 1:
        strategy.revert_layers = layer_sync.revert
    is_synchronised = any(isinstance(submodule, torch.nn.SyncBatchNorm) for submodule in module.modules())
    if is_synchronised and strategy.root_device.type == "cpu":
        raise ConfigurationError(
            f"{definition_location(type(module))}: sync_batchnorm=True replaces the layers that normalise "
            "batches by PyTorch's SyncBatchNorm, which works only on GPUs. Leave it out on a machine without them.",
            also=ValueError,
        )


def _prepare_data(runtime: Runtime) -> None:
    session, hooks, strategy = runtime.session, runtime.hooks, runtime.strategy
    lightning = session.lightning
    for owner, base in (
        (session.datamodule, lightning.LightningDataModule),
        (session.module, lightning.LightningModule),
    ):
        if owner is not None and is_overridden("prepare_data", owner, base):
            # One process downloads, on each node or on the first one; the others wait for it.
            rank = strategy.local_rank if owner.prepare_data_per_node else strategy.global_rank
            if rank == 0:
                action = f"[{base.__name__}]{type(owner).__name__}.prepare_data"
                hooks.run("prepare_data", session.profiling.measured(action, owner.prepare_data))
            strategy.barrier("prepare_data")


def _configure_optimizers(runtime: Runtime) -> None:
    session, hooks, strategy = runtime.session, runtime.hooks, runtime.strategy
    module, context = session.module, session.context
    configured = read_optimizers(
        session.lightning,
        hooks.module("configure_optimizers"),
        module.configure_optimizers,
        automatic=module.automatic_optimization,
        steps_itself=hooks.overridden("lr_scheduler_step"),
        takes_turns=takes_argument(module.training_step, "optimizer_idx"),
    )
    if strategy.precision_plugin.scaler is not None and any(
        isinstance(optimizer, torch.optim.LBFGS) for optimizer in configured.optimizers
    ):
        raise ConfigurationError(
            f"{definition_location(module.configure_optimizers)}: AMP and the LBFGS optimizer are not compatible: it "
            "calls its closure several times a step, and the gradient scaler of precision='16-mixed' allows one. Use "
            "another precision, such as 'bf16-mixed', or another optimizer."
        )
    # Determined refuses a trial without an optimizer.
    for optimizer in configured.optimizers or [session.lightning.NoOptimizer()]:
        context.wrap_optimizer(optimizer)
    for config in configured.lr_scheduler_configs:
        # The loop steps it; Determined saves and restores it.
        context.wrap_lr_scheduler(config.scheduler, pytorch.LRScheduler.StepMode.MANUAL_STEP)
    strategy.set_optimizers(configured)
