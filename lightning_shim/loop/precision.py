"""Lightning's precisions in plain PyTorch: default dtypes, ``torch.autocast`` and ``torch.amp``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from lightning_shim.diagnostics.errors import ConfigurationError
from lightning_shim.diagnostics.locations import caller_location
from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.upstream.torch import grad_scaler


@dataclass(frozen=True, slots=True)
class _Format:
    dtype: torch.dtype
    lightning1_name: int | str
    plugin: str  # Lightning's class
    scaled: bool = False

    @property
    def mixed(self) -> bool:
        return self.plugin == "MixedPrecision"


_FORMATS: Final = {
    "32-true": _Format(torch.float32, 32, "Precision"),
    "64-true": _Format(torch.float64, 64, "DoublePrecision"),
    "16-true": _Format(torch.float16, 16, "HalfPrecision"),
    "bf16-true": _Format(torch.bfloat16, "bf16", "HalfPrecision"),
    "bf16-mixed": _Format(torch.bfloat16, "bf16", "MixedPrecision"),
    "16-mixed": _Format(torch.float16, 16, "MixedPrecision", scaled=True),
}
_ALIASES: Final[dict[Any, str]] = {
    **dict.fromkeys((32, "32"), "32-true"),
    **dict.fromkeys((64, "64"), "64-true"),
    **dict.fromkeys((16, "16"), "16-mixed"),
    "bf16": "bf16-mixed",
}


class Precision:
    """The precision of a trial, following Lightning's precision plugins.

    Args:
        precision: One of Lightning's names: ``"32-true"``, ``"64-true"``, ``"16-true"``, ``"bf16-true"``,
            ``"bf16-mixed"``, ``"16-mixed"``, or an older short form such as ``16`` and ``"bf16"``.
        device: The module's device. On a CPU ``"16-mixed"`` becomes ``"bf16-mixed"``, as in Lightning, since the
            gradient scaler needs CUDA.
        scaler: The gradient scaler of ``"16-mixed"``; by default a new one.
        keeps_casts: Whether a mixed precision casts a weight once in a step, however often it is used.
        plugins: Lightning's package of plugins.

    Attributes:
        precision: The long name.
        device: The type of the module's device.
        scaler: The ``torch.amp.GradScaler`` of ``"16-mixed"``, otherwise None.
        converts_input: Whether batches are converted to the dtype of the module, which is the default one of its steps.

    Raises:
        ConfigurationError: If the name is none of these.
    """

    def __init__(
        self,
        precision: str | int,
        device: torch.device,
        scaler: torch.amp.GradScaler | None = None,
        keeps_casts: bool = False,
        plugins: Any = None,
    ) -> None:
        name = _ALIASES.get(precision, precision)
        if name not in _FORMATS:
            raise ConfigurationError(
                f"{caller_location()}: precision={precision!r} is none of {', '.join(map(repr, _FORMATS))}. Apex and "
                "Transformer Engine are not offered; torch.amp does what Apex did."
            )
        if name == "16-mixed" and device.type == "cpu":
            warn_at_caller("precision='16-mixed' needs a GPU; 'bf16-mixed' is used on this CPU, as in Lightning.")
            name = "bf16-mixed"
        self.precision: Final = str(name)
        self._format: Final = _FORMATS[self.precision]
        self.device: Final = device.type
        self._keeps_casts: Final = keeps_casts
        self._lightnings_class: Final[type] = getattr(plugins, self._format.plugin, type(self))
        self.scaler: torch.amp.GradScaler | None = None
        if self._format.scaled:
            self.scaler = grad_scaler(device.type) if scaler is None else scaler
        self.converts_input: Final = not self._format.mixed and self._format.dtype != torch.float32

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Lightning's class of this precision, for those who ask ``isinstance(trainer.precision_plugin, ...)``."""
        return self._lightnings_class

    @property
    def _desired_input_dtype(self) -> torch.dtype:
        """The dtype of the computation; Lightning's ThroughputMonitor reads it by this name."""
        return self._format.dtype

    @property
    def lightning1_name(self) -> int | str:
        """The name in Lightning 1.x, which did not tell ``-true`` from ``-mixed``."""
        return self._format.lightning1_name

    @property
    def needs_context(self) -> bool:
        """Whether steps run inside a context: autocast, or another default dtype."""
        return self._format.mixed or self.converts_input

    @property
    def is_mixed(self) -> bool:
        """Whether steps run under autocast."""
        return self._format.mixed

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Converts the parameters and buffers for the ``-true`` formats."""
        if self._format.dtype == torch.float64:
            # As in Lightning's DoublePrecision: `to` would cast complex numbers to real ones, and the metrics' states.
            return module.double()
        return module.to(dtype=self._format.dtype) if self.converts_input else module

    def convert_input(self, batch: Any) -> Any:
        """Converts the floating point tensors of a batch for the ``-true`` formats."""
        if not self.converts_input:
            return batch
        return apply_to_collection(batch, dtype=Tensor, function=self._convert)

    def _convert(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._format.dtype) if tensor.is_floating_point() else tensor

    def forward_context(self) -> AbstractContextManager[Any]:
        """Returns the context in which ``training_step`` and ``validation_step`` run."""
        if self._format.mixed:
            return torch.autocast(self.device, dtype=self._format.dtype, cache_enabled=self._keeps_casts)
        return self._default_dtype() if self.converts_input else nullcontext()

    def module_init_context(self) -> AbstractContextManager[Any]:
        """Returns the context in which ``configure_model`` runs."""
        return self._default_dtype() if self.converts_input else nullcontext()

    @contextlib.contextmanager
    def _default_dtype(self) -> Iterator[None]:
        previous = torch.get_default_dtype()
        torch.set_default_dtype(self._format.dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(previous)

    def scale(self, loss: Tensor) -> Tensor:
        """Scales a loss before ``backward``, if there is a scaler."""
        return loss if self.scaler is None else self.scaler.scale(loss)

    def step(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        after_closure: Callable[[], None],
        automatic: bool,
        **kwargs: Any,
    ) -> Any:
        """Steps an optimizer, whose closure computes the gradients and returns the loss, or None if there is none.

        Hooks and clipping come ``after_closure``, before the step.
        """
        if self.scaler is None:
            # The optimizer may call the closure several times in one step, as LBFGS does.

            def closure_with_hooks() -> Any:
                result = closure()
                after_closure()
                return result

            return optimizer.step(closure=closure_with_hooks, **kwargs)
        # A scaler takes no closure: gradients come first, then they are unscaled, clipped and used.
        result = closure()
        if result is None and automatic:
            # training_step skipped the batch, so there is nothing to unscale.
            after_closure()
            return None
        if not self._unscales_itself(optimizer):
            self.scaler.unscale_(optimizer)
        after_closure()
        output = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return output

    def clip_gradients(
        self, optimizer: torch.optim.Optimizer, clip_val: float = 0.0, gradient_clip_algorithm: str = "norm"
    ) -> None:
        """Clips the gradients of an optimizer's parameters in place.

        Args:
            optimizer: The optimizer.
            clip_val: The largest norm or value; nothing is clipped unless it is positive.
            gradient_clip_algorithm: ``"norm"`` or ``"value"``.

        Raises:
            ConfigurationError: If a fused optimizer unscales its gradients itself, so that they cannot be clipped.
        """
        if clip_val <= 0:
            return
        if self.scaler is not None and self._unscales_itself(optimizer):
            raise ConfigurationError(
                f"{caller_location()}: The current optimizer, {type(optimizer).__qualname__}, does not allow for "
                "gradient clipping because it performs unscaling of gradients internally. Use fused=False, or no "
                "gradient_clip_val.",
                also=RuntimeError,
            )
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(parameters, clip_value=clip_val)
        else:
            nn.utils.clip_grad_norm_(parameters, clip_val)

    @staticmethod
    def _unscales_itself(optimizer: torch.optim.Optimizer) -> bool:
        # PyTorch's private mark of fused optimizers, which Lightning and torch.amp read as well.
        return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
