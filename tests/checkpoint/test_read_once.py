"""How often a checkpoint is fetched and read when a trial goes on from it."""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from determined import pytorch
from determined.common import storage
from pytest_mock import MockerFixture

import lightning_shim
from lightning_shim.upstream.determined import latest_checkpoint
from tests.parity.oracle import assert_same
from tests.support.lightning_trainer import fit_by_lightning
from tests.support.tiny import tiny

pytestmark = pytest.mark.usefixtures("patched")


class ObjectStorage:
    """What Determined's storages in a cloud do: copies of the wanted files are there until the block ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.downloads: Counter[str] = Counter()

    @contextlib.contextmanager
    def restore_path(self, source: str, selector: Callable[[str], bool] | None = None) -> Iterator[Path]:
        self._folder.mkdir()
        for file in Path(source).rglob("*"):
            name = str(file.relative_to(source))
            if file.is_file() and (selector is None or selector(name)):
                self.downloads[name] += 1
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, self._folder / name)
        try:
            yield self._folder
        finally:
            shutil.rmtree(self._folder)


@pytest.fixture
def object_storage(tmp_path: Path, mocker: MockerFixture) -> ObjectStorage:
    """Has checkpoints fetched as a trial of a cluster fetches them, whose number is that of a trial off-cluster."""
    made = ObjectStorage(tmp_path / "downloads")
    mocker.patch.object(
        storage.SharedFSStorageManager, "restore_path", lambda _, *args, **options: made.restore_path(*args, **options)
    )
    info = SimpleNamespace(trial=SimpleNamespace(trial_id=0), latest_checkpoint=None)
    mocker.patch.object(latest_checkpoint, "det", SimpleNamespace(get_cluster_info=lambda: info))
    mocker.patch.object(latest_checkpoint, "is_on_cluster", return_value=True)
    return made


def loader() -> Any:
    inputs = torch.linspace(-1, 1, 24).reshape(-1, 3)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=4)


def fit(epochs: int, folder: Path, **options: Any) -> lightning_shim.LightningTrial:
    torch.manual_seed(0)
    callback = pl.callbacks.ModelCheckpoint(folder, filename="kept")
    return lightning_shim.fit(tiny(pl)(), loader(), max_length=pytorch.Epoch(epochs), callbacks=[callback], **options)


def test_each_file_is_downloaded_once_and_the_weights_are_read_once(
    tmp_path: Path, object_storage: ObjectStorage, mocker: MockerFixture
) -> None:
    first = fit(1, tmp_path / "kept")
    assert isinstance(first.checkpoint_path, Path)
    shutil.rmtree(tmp_path / "kept")
    load = mocker.spy(torch, "load")
    resumed = fit(2, tmp_path / "kept", latest_checkpoint=first.checkpoint_path)
    downloads = object_storage.downloads
    # It has a few numbers, which the trial and Determined's loop both look at.
    assert downloads.pop("trial_state.pkl") == 2
    written = {
        str(file.relative_to(first.checkpoint_path)) for file in first.checkpoint_path.rglob("*") if file.is_file()
    }
    assert downloads == dict.fromkeys(written - {"trial_state.pkl"}, 1)
    assert downloads["state_dict.pth"] == downloads["model_checkpoints/kept.ckpt"] == 1
    assert [Path(call.args[0]).name for call in load.call_args_list] == ["state_dict.pth"]
    assert list((tmp_path / "kept").iterdir())
    torch.manual_seed(0)
    module = tiny(pl)()
    fit_by_lightning(pl, module, loader(), max_epochs=2)
    assert_same(resumed.module.state_dict(), module.state_dict())


def test_of_another_trial_only_the_weights_are_downloaded(tmp_path: Path, object_storage: ObjectStorage) -> None:
    first = fit(1, tmp_path / "kept")
    assert isinstance(first.checkpoint_path, Path)
    latest_checkpoint.det.get_cluster_info().trial.trial_id = 7
    fit(1, tmp_path / "other", latest_checkpoint=first.checkpoint_path)
    assert object_storage.downloads == {"state_dict.pth": 1, "trial_state.pkl": 1}
