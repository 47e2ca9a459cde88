"""All that is needed of PyTorch's private names, in one place.

- ``Optimizer._optimizer_step_pre_hooks``, ``_optimizer_step_post_hooks``, and in ``torch.optim.optimizer``
  ``_global_optimizer_pre_hooks``, ``_global_optimizer_post_hooks``: what is called before and after a step.
- ``_wrapped_by_lr_sched``: the mark of the ``step`` by which a scheduler takes the place of its optimizer's own. Before
  PyTorch 2.5 it is ``_with_counter``.
- ``DataLoader._get_iterator`` and ``_iterator``: what ``iter(loader)`` makes, and keeps for persistent workers.
- ``_BaseDataLoaderIter._sampler_iter`` and ``_next_index``: where the next batch's indices come from.
- ``_SingleProcessDataLoaderIter._dataset_fetcher`` and its ``ended``: whether an iterable dataset has ended.
- ``_BaseDataLoaderIter._reset``: iterates the sampler, once more if there are workers.
- ``_MultiProcessingDataLoaderIter._reset``, ``_get_data``, ``_process_data``, ``_task_info`` and
  ``_worker_queue_idx_cycle``: how batches are handed to the workers in turn, and come back. ``_process_data`` takes the
  worker's index as well since PyTorch 2.6.
- ``torch._utils.ExceptionWrapper``: what a worker gives in place of a batch that could not be made; and
  ``multiprocessing.queues.Queue._on_queue_feeder_error``, which Python calls if a batch cannot be handed over.
- ``Module._non_persistent_buffers_set``: the names of the buffers that are not in a module's ``state_dict``.
- ``Module._register_load_state_dict_pre_hook``: the name of ``register_load_state_dict_pre_hook`` before PyTorch 2.5.
- ``Tensor._version``: how often a tensor was written to in place, which PyTorch's notes on autograd explain.
- ``torch.serialization`` is where the errors of its writer, which is C++, come out.
"""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import DataLoader

Skip = Callable[[Iterator[Any]], int]
"""Advances an iterator, and returns by how much."""

_SCHEDULERS_MARKS: Final = ("_wrapped_by_lr_sched", "_with_counter")


def _register_load_state_dict_pre_hook(module: nn.Module, hook: Callable[..., None]) -> Any:
    return module._register_load_state_dict_pre_hook(hook, with_module=True)  # type: ignore[no-untyped-call]


def _cuda_grad_scaler(device: str) -> torch.amp.GradScaler:
    return torch.cuda.amp.GradScaler()


register_load_state_dict_pre_hook: Final[Callable[[nn.Module, Callable[..., None]], Any]] = getattr(
    nn.Module, "register_load_state_dict_pre_hook", _register_load_state_dict_pre_hook
)
"""``Module.register_load_state_dict_pre_hook``, which is public since PyTorch 2.5."""

grad_scaler: Final[Callable[[str], torch.amp.GradScaler]] = getattr(torch.amp, "GradScaler", _cuda_grad_scaler)
"""Makes a ``GradScaler`` for a type of device; before PyTorch 2.3 there is one for CUDA alone."""


@functools.cache
def _computes_gradients_once(optimizer_class: Any) -> bool:
    """Tells whether ``step`` of a class is PyTorch's, and calls its closure once, before anything else."""
    return optimizer_class in vars(torch.optim).values() and optimizer_class is not torch.optim.LBFGS


def closure_comes_first(optimizer: torch.optim.Optimizer) -> bool:
    """Tells whether ``optimizer.step(closure)`` is the same as ``closure()`` and then ``optimizer.step()``.

    It is not where somebody can see the closure, or where ``step`` would turn gradients on for it.

    Args:
        optimizer: The optimizer.
    """
    if (
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or not torch.is_grad_enabled()
    ):
        return False
    own_step = vars(optimizer).get("step")
    return (own_step is None or _is_of_scheduler(own_step, optimizer)) and _computes_gradients_once(type(optimizer))  # type: ignore[arg-type]


def _is_of_scheduler(step: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Tells whether a ``step`` is a scheduler's, which counts and calls the one of the optimizer's class."""
    is_marked = any(hasattr(step, mark) for mark in _SCHEDULERS_MARKS)
    return is_marked and step.__wrapped__ is type(optimizer).step


def is_error_of_the_writer(error: BaseException) -> bool:
    """Tells whether PyTorch could not write a file: it raises a RuntimeError that does not say so."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return isinstance(error, RuntimeError) and frames[-1][0].f_globals.get("__name__") == torch.serialization.__name__


def buffers_without_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the buffers of a module, without its submodules', that are not in its ``state_dict``, by name."""
    buffers = dict(module.named_buffers(recurse=False))
    return {name: buffers[name] for name in sorted(module._non_persistent_buffers_set) if name in buffers}


def count_of_writes(tensor: torch.Tensor) -> int:
    """Returns how often a tensor, and those that share its numbers, were written to in place.

    Writes by ``tensor.data``, by a NumPy array over the same memory, and by another process do not count. Inference
    tensors have no count: it is a RuntimeError to ask for it.

    Args:
        tensor: The tensor.
    """
    return tensor._version


def iterates_as_usual(loader: Any) -> bool:
    """Tells whether a loader is a DataLoader whose way to iterate nobody has replaced."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and type(loader)._get_iterator is DataLoader._get_iterator
    )


def iterate_sampler_again(loader: DataLoader[Any], iterator: Any, before_reset: Callable[[], None] | None) -> None:
    """Does what is done when workers have been started to an iterator that has none.

    Args:
        loader: The loader.
        iterator: Its iterator.
        before_reset: Called before.
    """
    if before_reset is not None:
        before_reset()
    iterator._reset(loader)


def skip_batches(iterator: Any, skip: Skip) -> None:
    """Advances a DataLoader's iterator that has no workers, without loading anything.

    Args:
        iterator: The iterator.
        skip: Advances the iterator of the indices.
    """
    skip(iterator._sampler_iter)


def has_ended(iterator: Any) -> bool:
    """Tells whether an iterable dataset, iterated without workers, has given its last sample."""
    return bool(iterator._dataset_fetcher.ended)


def has_workers_running(loader: DataLoader[Any]) -> bool:
    """Tells whether a loader has persistent workers that have been started."""
    return loader.persistent_workers and loader._iterator is not None
