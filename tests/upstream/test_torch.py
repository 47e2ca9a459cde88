"""PyTorch's private names are where they were; nothing else says so when they move."""

from __future__ import annotations

import functools
from types import MethodType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_shim.upstream.torch import (
    _register_load_state_dict_pre_hook,
    closure_comes_first,
    iterates_as_usual,
    register_load_state_dict_pre_hook,
    release_gradients,
)
from tests.parity.oracle import assert_same


class Nothing(IterableDataset[int]):
    def __iter__(self) -> object:
        return iter(())


def test_names_that_are_relied_on() -> None:
    loader = DataLoader([1, 2])
    assert loader._iterator is None
    assert next(iter(loader)._sampler_iter) == [0]
    assert not iter(DataLoader(Nothing()))._dataset_fetcher.ended
    for name in ("_reset", "_get_data", "_process_data", "_next_index"):
        assert callable(getattr(_MultiProcessingDataLoaderIter, name))
    workers = iter(DataLoader([1, 2], num_workers=1))
    assert next(workers._worker_queue_idx_cycle) == 0
    assert all(len(waiting) in (1, 2) for waiting in workers._task_info.values())


@pytest.mark.versions
@pytest.mark.parametrize("register", [register_load_state_dict_pre_hook, _register_load_state_dict_pre_hook])
def test_hook_before_loading(register: Any) -> None:
    module, seen = nn.Linear(1, 1), []
    register(module, lambda *args: seen.append(args[:3]))
    state = module.state_dict()
    module.load_state_dict(state)
    assert seen == [(module, state, "")]


def test_own_way_to_iterate_is_noticed() -> None:
    class Own(DataLoader):
        def __iter__(self) -> object:
            return iter(())

    assert iterates_as_usual(DataLoader([1]))
    assert not iterates_as_usual(Own([1]))
    assert not iterates_as_usual([1])


OPTIMIZERS = [
    each for each in vars(torch.optim).values() if isinstance(each, type) and each is not torch.optim.Optimizer
]

REGISTER_FOR_ALL = {"pre": register_optimizer_step_pre_hook, "post": register_optimizer_step_post_hook}


class TestClosureComesFirst:
    @pytest.mark.parametrize("optimizer_class", OPTIMIZERS, ids=lambda each: each.__name__)
    def test_gives_the_same_weights(self, optimizer_class: type[Any]) -> None:
        def train(first: bool) -> tuple[list[Tensor], list[Any]]:
            torch.manual_seed(0)
            is_sparse = optimizer_class is torch.optim.SparseAdam
            layer = nn.Embedding(5, 3, sparse=True) if is_sparse else nn.Linear(3, 5, bias=False)
            optimizer = optimizer_class(layer.parameters(), lr=0.1)
            losses = []

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss: Tensor = layer(torch.arange(5) if is_sparse else torch.eye(3)).square().sum()
                loss.backward()
                losses.append(loss.item())
                return loss

            for _ in range(4):
                if first:
                    closure()
                    optimizer.step()
                else:
                    optimizer.step(closure)
            return [parameter.detach() for parameter in layer.parameters()], losses

        optimizer = optimizer_class(nn.Linear(1, 1, bias=False).parameters(), lr=0.1)
        if not closure_comes_first(optimizer):
            assert optimizer_class is torch.optim.LBFGS
            return
        for one, other in zip(train(True), train(False), strict=True):
            assert_same(one, other, optimizer_class.__name__)

    def test_is_not_for_those_of_others(self) -> None:
        class Own(torch.optim.SGD):
            pass

        assert not closure_comes_first(Own([torch.zeros(1)], lr=0.1))

    @pytest.mark.parametrize("when", ["pre", "post"])
    def test_is_not_with_a_hook_of_the_step(self, when: str) -> None:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        for register in (getattr(optimizer, f"register_step_{when}_hook"), REGISTER_FOR_ALL[when]):
            handle = register(lambda *_: None)
            assert not closure_comes_first(optimizer)
            handle.remove()
            assert closure_comes_first(optimizer)

    def test_is_not_where_the_step_would_turn_gradients_on(self) -> None:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        with torch.no_grad():
            assert not closure_comes_first(optimizer)

    def test_is_not_for_a_step_of_the_users(self) -> None:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        step = optimizer.step

        @functools.wraps(step)
        def own_step(self: Any, closure: Any = None) -> Any:
            return step(closure)

        optimizer.step = MethodType(own_step, optimizer)  # type: ignore[method-assign]
        assert not closure_comes_first(optimizer)
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
        assert not closure_comes_first(optimizer)

    @pytest.mark.versions
    def test_is_with_schedulers(self) -> None:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
        for _ in range(2):
            torch.optim.lr_scheduler.StepLR(optimizer, 1)
            assert "step" in vars(optimizer)
            assert closure_comes_first(optimizer)


class TestReleasedGradients:
    def released(self, optimizer_class: type[torch.optim.Optimizer] = torch.optim.SGD) -> list[Any]:
        used, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
        optimizer = optimizer_class([{"params": [used]}, {"params": [unused]}], lr=0.1)
        used.sum().backward()
        release_gradients(optimizer)
        return [used.grad, unused.grad]

    def test_as_zero_grad(self) -> None:
        assert self.released() == [None, None]

    def test_own_zero_grad_is_called(self) -> None:
        class Keeping(torch.optim.SGD):
            def zero_grad(self, set_to_none: bool = True) -> None:
                super().zero_grad(set_to_none=False)

        assert [None if grad is None else grad.tolist() for grad in self.released(Keeping)] == [[0.0, 0.0], None]

    def test_assigned_zero_grad_is_called(self) -> None:
        called: list[bool] = []
        optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1)
        optimizer.zero_grad = lambda set_to_none=True: called.append(set_to_none)
        release_gradients(optimizer)
        assert called == [True]

    def test_profiler_sees_it(self) -> None:
        with torch.autograd.profiler.profile() as profile:
            self.released()
        assert "Optimizer.zero_grad#SGD.zero_grad" in {event.name for event in profile.function_events}
