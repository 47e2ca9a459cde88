"""The tensors that ``torch.nn.utils.prune`` has pruned, by Lightning's ModelPruning or by the user's own hooks.

A pruned ``weight`` is a parameter ``weight_orig``, a mask ``weight_mask`` and a hook of the layer. A new process has
none of these, and a parameter ``weight``. Optimizers are configured with it, as they were in the first process; they do
not notice the pruning, since the parameter stays the same object under its new name.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lightning_shim.diagnostics.warn import warn_at_caller
from lightning_shim.upstream.lightning import first_layers_of
from lightning_shim.upstream.torch import PrunedTensor, pruned_tensors


class _Entry(TypedDict):
    """A pruned tensor. What is in the checkpoint's weights as well takes up no further space."""

    layer: str  # the layer's name in the module
    name: str
    method: Tensor  # the pickled pruning method, as a tensor, since torch.save stores bytes as text
    original: Tensor
    mask: Tensor
    value: Tensor


class PruningState(TypedDict):
    """What is pruned, and what ModelPruning puts the weights back to when it looks for a lottery ticket."""

    tensors: list[_Entry]
    first_layers: list[dict[str, Tensor]]


def pruning_of(module: nn.Module, callbacks: Sequence[Any]) -> PruningState:
    """Returns what is pruned in a module."""
    first_layers = [layer.state_dict() for layer in first_layers_of(callbacks)]
    return {"tensors": [_entry(path, tensor) for path, tensor in _pruned(module)], "first_layers": first_layers}


def _pruned(module: nn.Module) -> Iterator[tuple[str, PrunedTensor]]:
    for path, layer in module.named_modules():
        for tensor in pruned_tensors(layer):
            yield path, tensor


def _entry(path: str, tensor: PrunedTensor) -> _Entry:
    try:
        pickled = pickle.dumps(tensor.method)
    except Exception as error:
        # A class within a function, for example. Its mask is kept, and later prunings begin with it.
        warn_at_caller(
            f"{type(tensor.method).__qualname__}, which has pruned {tensor.name}, cannot be pickled ({error}). After a "
            "pause CustomFromMask stands for it. Define its class at the top of a file.",
        )
        pickled = b""
    return {
        "layer": path,
        "name": tensor.name,
        "method": torch.frombuffer(bytearray(pickled), dtype=torch.uint8) if pickled else torch.empty(0),
        "original": tensor.original.detach(),
        "mask": tensor.mask,
        "value": tensor.value.detach(),
    }


def fitting_weights(weights: dict[str, Tensor], module: nn.Module, pruning: PruningState) -> dict[str, Tensor]:
    """Returns weights under the names that a module has, whatever is pruned in it and was pruned in them.

    ModelPruning may have made the pruning permanent in the checkpoint's weights, and hooks up to ``configure_model``
    may have pruned the module.
    """
    # The copy keeps the attribute in which PyTorch has the versions of layers.
    fitting = copy.copy(weights)
    for entry in pruning["tensors"]:
        name = _name(entry["layer"], entry["name"])
        original = fitting.pop(f"{name}_orig", entry["original"])
        fitting.pop(f"{name}_mask", None)
        fitting[name] = original
    for path, tensor in _pruned(module):
        name = _name(path, tensor.name)
        if name in fitting:
            fitting[f"{name}_orig"], fitting[f"{name}_mask"] = fitting.pop(name), tensor.mask
    return fitting


def _name(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def prune_again(module: nn.Module, callbacks: Sequence[Any], pruning: PruningState) -> None:
    """Prunes in a module what was pruned, by the same masks, and nothing else."""
    for _, tensor in list(_pruned(module)):
        tensor.undo()
    originals: dict[int, nn.Parameter] = {}
    for entry in pruning["tensors"]:
        layer, name = module.get_submodule(entry["layer"]), entry["name"]
        mask = entry["mask"].to(layer.get_parameter(name).device)
        prune.custom_from_mask(layer, name, mask)  # type: ignore[no-untyped-call]
        (tensor,) = [tensor for tensor in pruned_tensors(layer) if tensor.name == name]
        if entry["method"].numel():
            tensor.replace_method(pickle.loads(entry["method"].numpy().tobytes()))
        with torch.no_grad():
            tensor.value.copy_(entry["value"])
        originals[entry["original"].data_ptr()] = tensor.original
    for layer, state in zip(first_layers_of(callbacks), pruning["first_layers"], strict=False):
        layer.load_state_dict(state)
        for name, parameter in layer.named_parameters():
            # ModelPruning puts weights back by assigning their memory, which is trained from then on. torch.save keeps
            # what shares memory together.
            original = originals.get(state[name].data_ptr())
            if original is not None:
                parameter.data = original.data
