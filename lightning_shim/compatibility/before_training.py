"""Checks at the start of a trial, which refuse or warn about what would go wrong during training."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from lightning_shim.compatibility.inspection import inspect_members, lightnings_callback
from lightning_shim.compatibility.report import Finding, Role
from lightning_shim.diagnostics.errors import (
    ConfigurationError,
    IgnoredMemberWarning,
    RefusedMemberError,
    RefusedMemberWarning,
)
from lightning_shim.diagnostics.locations import caller_location, definition_location
from lightning_shim.diagnostics.warn import warn_at_caller, warn_at_place
from lightning_shim.lightning1.hook_arguments import takes_argument
from lightning_shim.members.member import Support
from lightning_shim.members.query import find
from lightning_shim.session.options import TrainerOptions
from lightning_shim.upstream.lightning import Lightning, is_overridden
from lightning_shim.upstream.namespaces import derives_from
from lightning_shim.user_code.class_source import is_users

_WARNINGS: Final = {
    Support.IGNORED: ("ignored", IgnoredMemberWarning),
    Support.REFUSED: ("refused when this line is reached", RefusedMemberWarning),
}
"""The words and the class of the warnings that a starting trial gives, by the support of the member."""


def takes_batch_idx(step: Callable[..., Any]) -> bool:
    """Whether a step takes the index of the batch, by Lightning's rule."""
    specification = inspect.getfullargspec(inspect.unwrap(step))
    arguments = specification.args[1:]
    return "batch_idx" in arguments or specification.varargs is not None or len(arguments) >= 2


def takes_dataloader_iter(step: Callable[..., Any] | None) -> bool:
    """Whether a step takes the loaders' iterator in place of a batch, by Lightning's rule."""
    return step is not None and "dataloader_iter" in inspect.getfullargspec(inspect.unwrap(step)).args


def verify_module(lightning: Lightning, module: Any) -> None:
    """Refuses what is no LightningModule, lacks a required hook, or takes ``optimizer_idx`` by hand."""
    module_class: Any = lightning.LightningModule
    if not isinstance(module, module_class):
        raise ConfigurationError(
            f"{caller_location()}: model must be a `LightningModule`, got `{type(module).__qualname__}`.",
            also=TypeError,
        )
    for hook in ("training_step", "configure_optimizers"):
        if not is_overridden(hook, module, module_class):
            where = definition_location(type(module))
            raise ConfigurationError(
                f"{where}: No `{hook}()` method defined in {type(module).__qualname__}. Lightning `Trainer` expects as "
                "minimum a `training_step()`, `train_dataloader()` and `configure_optimizers()` to be defined."
            )
    if takes_argument(module.training_step, "optimizer_idx") and not module.automatic_optimization:
        raise ConfigurationError(
            f"{definition_location(module.training_step)}: training_step takes optimizer_idx, which manual "
            "optimization has no use for. Remove it and step the optimizers yourself (self.optimizers()), or "
            "leave automatic_optimization on."
        )


def verify_manual_optimization(module: Any, options: TrainerOptions) -> None:
    """Refuses to clip or accumulate gradients in manual optimization, as Lightning does."""
    if module.automatic_optimization:
        return
    if (options.gradient_clip_val or 0) > 0:
        instead = "clip in training_step (self.clip_gradients)"
        raise _not_supported(module, "clipping", "gradient_clip_val", options.gradient_clip_val, instead)
    if options.accumulate_grad_batches > 1:
        raise no_accumulation(module, options.accumulate_grad_batches)


def no_accumulation(module: Any, batches: int) -> ConfigurationError:
    """Makes the error for ``accumulate_grad_batches`` with manual optimization."""
    instead = "step in every few calls of training_step"
    return _not_supported(module, "accumulation", "accumulate_grad_batches", batches, instead)


def _not_supported(module: Any, what: str, name: str, value: Any, instead: str) -> ConfigurationError:
    return ConfigurationError(
        f"{caller_location()}: Automatic gradient {what} is not supported for manual optimization, which "
        f"{type(module).__qualname__} has chosen (automatic_optimization = False). Leave {name}={value} out, and "
        f"{instead}."
    )


def verify_datamodule(lightning: Lightning, datamodule: Any, train_dataloaders: Any, val_dataloaders: Any) -> None:
    """Refuses what is no LightningDataModule of the module's namespace, or comes with loaders."""
    if datamodule is None:
        return
    if not isinstance(datamodule, lightning.LightningDataModule):
        raise ConfigurationError(
            f"{caller_location()}: datamodule is a {type(datamodule).__qualname__}, which is not a "
            f"{lightning.LightningDataModule.__module__}.LightningDataModule. Loaders are passed as train_dataloaders "
            "and val_dataloaders; module and data module have to come from the same package, pytorch_lightning or "
            "lightning."
        )
    if train_dataloaders is not None or val_dataloaders is not None:
        raise ConfigurationError(
            f"{caller_location()}: You cannot pass `train_dataloader` or `val_dataloaders` to "
            "`trainer.fit(datamodule=...)`: pass either a datamodule, or train_dataloaders and val_dataloaders."
        )


def verify_members(module: Any, datamodule: Any, callbacks: list[Any], script_trainer: Any) -> None:
    """Refuses hooks whose absence would change the result, and warns about other members that are not supported.

    The findings are those of :func:`lightning_shim.check`. A warning points at the definition of a hook that will not
    be called, or at the use of an ignored or refused member. A script's own Trainer tests and predicts afterwards, and
    has attributes of its own.
    """
    # `usable_callbacks` has judged Lightning's own callbacks as a whole.
    subjects = [module, datamodule, *(callback for callback in callbacks if is_users(callback.__class__.__module__))]
    reports = [inspect_members(subject) for subject in subjects if subject is not None]
    findings = [finding for report in reports for finding in report.findings]
    refused = [finding for finding in findings if finding.support is Support.REFUSED and finding.role is Role.OVERRIDE]
    if refused:
        raise RefusedMemberError(
            "\n".join(
                f"{finding.file}:{finding.line}: {finding.spelling} is refused: {finding.sentence}"
                for finding in refused
            )
        )
    for finding in findings:
        if script_trainer is not None and _is_of_trainer(script_trainer, finding):
            continue
        # Code that is never reached cannot go wrong, and a callback that the source only creates is judged for itself
        # once it is passed.
        if finding.role not in (Role.UNREACHED, Role.MADE) and finding.support in _WARNINGS:
            words, category = _WARNINGS[finding.support]
            message = f"{finding.spelling} is {words}: {finding.sentence}"
            warn_at_place(finding.file, finding.line, finding.module, message, category)


def _is_of_trainer(trainer: Any, finding: Finding) -> bool:
    """Whether a hook, such as ``on_test_start``, or an attribute is one of the script's own Trainer."""
    owner, _, name = finding.member.rpartition(".")
    if finding.role is Role.OVERRIDE:
        return not {"test", "predict"}.isdisjoint(name.split("_"))
    row = find("Trainer", name)
    is_trials = row is not None and row.support is not Support.IGNORED and not name.startswith("_")
    return owner == "Trainer" and not is_trials and (name in vars(trainer) or hasattr(type(trainer), name))


def usable_callbacks(lightning: Lightning, callbacks: list[Any]) -> list[Any]:
    """Removes callbacks that have no effect in a trial, with a warning, and refuses those that would change it."""
    usable = []
    for callback in callbacks:
        if not derives_from(callback, "Callback"):
            package = lightning.Callback.__module__.rpartition(".")[0]
            raise ConfigurationError(f"{caller_location()}: {callback!r} is not a {package}.Callback.")
        row = lightnings_callback(callback.__class__)
        message = f"{type(callback).__qualname__} is {row.support.value}: {row.sentence}"
        if row.support is Support.REFUSED:
            raise RefusedMemberError(f"{caller_location()}: {message}")
        if row.support is Support.IGNORED:
            warn_at_caller(message, IgnoredMemberWarning)
        else:
            usable.append(callback)
    return usable


def warn_about_validation(has_loaders: bool, has_step: bool) -> None:
    """Warns if there are validation loaders without a ``validation_step``, or the other way round."""
    if has_loaders is not has_step:
        found = (
            "passed in a `val_dataloader` but have no `validation_step`"
            if has_loaders
            else "defined a `validation_step` but have no `val_dataloader`"
        )
        warn_at_caller(f"You {found}. Skipping val loop.")
