"""PyTorch's private names are where they were; nothing else says so when they move."""

from __future__ import annotations

from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from lightning_shim._torch import iterates_as_usual


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


def test_own_way_to_iterate_is_noticed() -> None:
    class Own(DataLoader):
        def __iter__(self) -> object:
            return iter(())

    assert iterates_as_usual(DataLoader([1]))
    assert not iterates_as_usual(Own([1]))
    assert not iterates_as_usual([1])
