"""Tensors of a GPU are recognised without a copy on the host: so are buffers without state, at each checkpoint."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from determined import pytorch
from torch import Tensor

import lightning_shim
from lightning_shim.checkpoint import tensor_digest
from lightning_shim.checkpoint.tensor_digest import digest_on_device
from tests.support.tiny import loader, tiny

SIZE = 11
DTYPES = (torch.bool, torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
COMPLEX = (torch.complex64, torch.complex128)


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_digest, "_CHUNK", 4)


def numbers(dtype: torch.dtype) -> Tensor:
    return (torch.arange(SIZE) % 3).to(dtype)


@pytest.mark.parametrize("dtype", [*DTYPES, *COMPLEX], ids=str)
def test_each_number_counts(dtype: torch.dtype) -> None:
    tensor = numbers(dtype)
    before = digest_on_device(tensor)
    digests = {before}
    for index in range(SIZE):
        changed = tensor.clone()
        # A write that PyTorch does not count.
        changed.data[index] = not changed[index] if dtype is torch.bool else changed[index] + 1
        digests.add(digest_on_device(changed))
    assert len(digests) == SIZE + 1
    # Neither it, nor the last of them, was changed by being looked at.
    assert torch.equal(tensor, numbers(dtype))
    assert digest_on_device(tensor) == digest_on_device(tensor.clone()) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, *COMPLEX], ids=str)
def test_signs_and_places_count(dtype: torch.dtype) -> None:
    tensor = numbers(dtype) + 1
    # Where bits of the same weight change in several words, sums of them would not tell.
    alike = {digest_on_device(each) for each in (tensor, -tensor, tensor.flip(0), tensor.roll(1), tensor * -2)}
    assert len(alike) == 5


def test_views() -> None:
    table = torch.arange(24.0).reshape(4, 6)
    conjugated = torch.view_as_complex(table[:, :2]).conj()
    for view in (table.T, table[:, ::2], table[1:, 1], table[0, 0], table[:0], conjugated):
        copy = view.resolve_conj().clone(memory_format=torch.contiguous_format)
        assert digest_on_device(view) == digest_on_device(copy)
    halves = torch.arange(9, dtype=torch.float16)
    # Not at a multiple of eight bytes.
    assert digest_on_device(halves[1:]) == digest_on_device(halves[1:].clone())


def test_nothing_but_digests_is_copied_to_the_host(
    pl: ModuleType, patched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Masks(tiny(pl)):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.ones(100, 100), persistent=False)
            self.seen = [torch.zeros(200, 100)]

    trial = lightning_shim.fit(Masks(), loader(), max_length=pytorch.Batch(1), checkpoint_policy="none")
    attributes, copied = trial._parts.attributes, []

    def cpu(tensor: Tensor) -> Tensor:
        copied.append(tensor.nbytes)
        return tensor.clone()

    # From here on all tensors pretend to be on a GPU.
    monkeypatch.setattr(Tensor, "is_cpu", False)
    monkeypatch.setattr(Tensor, "cpu", cpu)
    attributes.start()
    copied.clear()
    assert attributes.state() is None
    assert copied == [16, 16]
    copied.clear()
    trial.module.mask.data[3, 4] = 2
    assert attributes.state() is not None
    # What has changed is saved.
    assert copied == [16, 16, trial.module.mask.nbytes]
