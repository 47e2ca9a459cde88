"""Runs a module's step inside the ``forward`` of DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from lightning_shim.upstream.torch import register_load_state_dict_pre_hook


class ForwardRedirection(nn.Module):
    """The model that Determined wraps: its ``forward`` calls any function it is given.

    DistributedDataParallel synchronises gradients only if its ``forward`` has run, so ``training_step`` has to run
    inside one. ``train()`` and ``eval()`` do nothing: Determined calls them at each report, whereas Lightning leaves
    the modes of submodules as the user set them. The state is the module's own, without a prefix.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        register_load_state_dict_pre_hook(self, _with_prefix)

    def forward(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls a function, usually a method of the module."""
        return function(*args)

    def train(self, mode: bool = True) -> ForwardRedirection:
        """Does nothing: modes are the user's to set."""
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the module's state."""
        return self.module.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        """Loads the module's state, as strictly as its ``strict_loading`` allows."""
        strict = strict and bool(getattr(self.module, "strict_loading", True))
        return self.module.load_state_dict(state_dict, strict=strict, assign=assign)


def _with_prefix(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Adds the inner module's name to the keys, for a parent: it loads children without their ``load_state_dict``."""
    for key in [key for key in state_dict if key.startswith(prefix)]:
        state_dict[f"{prefix}module.{key.removeprefix(prefix)}"] = state_dict.pop(key)
