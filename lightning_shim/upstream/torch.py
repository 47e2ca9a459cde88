"""Access to PyTorch's optimizers, loaders, modules and tensors beneath their documented interfaces."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import DataLoader

Skip = Callable[[Iterator[Any]], int]
"""A function that advances an iterator and returns the number of elements skipped."""

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
    """Whether a class is one of PyTorch's whose ``step`` calls its closure once, before anything else."""
    # LBFGS calls it several times, at different points.
    return optimizer_class in vars(torch.optim).values() and optimizer_class is not torch.optim.LBFGS


def closure_comes_first(optimizer: torch.optim.Optimizer) -> bool:
    """Whether ``optimizer.step(closure)`` is equivalent to ``closure()`` followed by ``optimizer.step()``.

    It is not if a hook or the user's own ``step`` would see the closure, or if ``step`` would enable gradients for it.
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


def release_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Does what ``optimizer.zero_grad()`` does.

    PyTorch's own takes a label for profilers, in each step as long as a tenth of a small layer's, for setting a handful
    of attributes. It is called where it could be noticed: in a profiler, or if somebody has replaced it.
    """
    if (
        type(optimizer).zero_grad is not _ZERO_GRAD
        or "zero_grad" in optimizer.__dict__
        or torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    ):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


_ZERO_GRAD: Final = torch.optim.Optimizer.zero_grad


def _is_of_scheduler(step: Any, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a ``step`` is a scheduler's wrapper, which only counts and calls the optimizer's own."""
    is_marked = any(hasattr(step, mark) for mark in _SCHEDULERS_MARKS)
    return is_marked and step.__wrapped__ is type(optimizer).step


def is_error_of_the_writer(error: BaseException) -> bool:
    """Whether an error means that PyTorch could not write a file."""
    # The C++ writer raises a RuntimeError with no errno and changing texts, but always from the same Python module.
    frames = list(traceback.walk_tb(error.__traceback__))
    return isinstance(error, RuntimeError) and frames[-1][0].f_globals.get("__name__") == torch.serialization.__name__


def buffers_without_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns a module's own buffers, without its submodules', that are not in its ``state_dict``, by name."""
    buffers = dict(module.named_buffers(recurse=False))
    return {name: buffers[name] for name in sorted(module._non_persistent_buffers_set) if name in buffers}


def count_of_writes(tensor: torch.Tensor) -> int:
    """Returns the number of in-place writes to a tensor and to its views; an inference tensor has none.

    Writes through ``tensor.data``, through a NumPy array over the same memory, and by another process do not count.
    """
    return tensor._version


def iterates_as_usual(loader: Any) -> bool:
    """Whether a loader is a DataLoader with PyTorch's own ``__iter__``."""
    return (
        isinstance(loader, DataLoader)
        and type(loader).__iter__ is DataLoader.__iter__
        and type(loader)._get_iterator is DataLoader._get_iterator
    )


def iterate_sampler_again(loader: DataLoader[Any], iterator: Any, before_reset: Callable[[], None] | None) -> None:
    """Starts the sampler of an iterator without workers a second time, as starting workers does.

    A pass that began with workers, and is resumed without, has to draw the same random numbers.
    """
    if before_reset is not None:
        before_reset()
    iterator._reset(loader)


def skip_batches(iterator: Any, skip: Skip) -> None:
    """Advances a DataLoader's iterator without workers, without loading anything."""
    skip(iterator._sampler_iter)


def has_ended(iterator: Any) -> bool:
    """Whether an iterable dataset, iterated without workers, has yielded its last sample."""
    return bool(iterator._dataset_fetcher.ended)


def has_workers_running(loader: DataLoader[Any]) -> bool:
    """Whether a loader has persistent workers that have been started."""
    return loader.persistent_workers and loader._iterator is not None


@dataclass(frozen=True, slots=True)
class PrunedTensor:
    """A tensor of a layer that ``torch.nn.utils.prune`` has made the product of a parameter and a mask."""

    layer: nn.Module
    name: str  # the parameter is called `name_orig`, and the mask `name_mask`
    hook: int  # the number of the hook that makes it before each forward pass
    method: Any  # that hook, a BasePruningMethod

    @property
    def original(self) -> nn.Parameter:
        """The parameter."""
        return self.layer.get_parameter(f"{self.name}_orig")

    @property
    def mask(self) -> Tensor:
        """The mask."""
        return self.layer.get_buffer(f"{self.name}_mask")

    @property
    def value(self) -> Tensor:
        """Their product at the last forward pass, by which the next pruning may decide."""
        return getattr(self.layer, self.name)  # type: ignore[no-any-return]

    def replace_method(self, method: Any) -> None:
        """Has another pruning method make the tensor."""
        self.layer._forward_pre_hooks[self.hook] = method

    def undo(self) -> None:
        """Makes it a parameter again, whose values the mask has not changed, unlike ``prune.remove``."""
        original = self.original
        del self.layer._forward_pre_hooks[self.hook]
        for name in (self.name, f"{self.name}_orig", f"{self.name}_mask"):
            delattr(self.layer, name)
        self.layer.register_parameter(self.name, original)


def pruned_tensors(layer: nn.Module) -> list[PrunedTensor]:
    """Returns the pruned tensors of a layer itself, in the order of its parameters."""
    hooks = layer._forward_pre_hooks.items()
    methods = {hook._tensor_name: (key, hook) for key, hook in hooks if isinstance(hook, prune.BasePruningMethod)}
    names = [name.removesuffix("_orig") for name in layer._parameters]
    return [PrunedTensor(layer, name, *methods[name]) for name in names if name in methods]
