"""A checkpoint that cannot be continued is refused before training, and left as it is."""

from __future__ import annotations

import functools
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from determined import pytorch

from lightning_shim import CheckpointError
from tests.support.places import place_in
from tests.support.refusals import refuse, train, trains
from tests.support.tiny import loader, tiny

pytestmark = pytest.mark.usefixtures("patched")

place = functools.partial(place_in, Path(__file__))


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


class TestCheckpoint:
    @pytest.fixture
    def module(self, pl: ModuleType) -> Any:
        return tiny(pl)()

    @pytest.fixture
    def checkpoint(self, pl: ModuleType) -> Path:
        path = train(tiny(pl)(), loader(), max_length=pytorch.Batch(2)).checkpoint_path
        assert isinstance(path, Path)
        return path

    def refused(self, module: Any, checkpoint: Any) -> str:
        return refuse(CheckpointError, module, loader(), latest_checkpoint=checkpoint, max_length=pytorch.Batch(4))

    @pytest.mark.parametrize("kind", [str, Path])
    def test_folder_is_missing(self, module: Any, tmp_path: Path, kind: Callable[[Path], Any]) -> None:
        message = self.refused(module, kind(tmp_path / "gone"))
        assert f"{tmp_path / 'gone'} does not exist" in message
        assert "fit(...).checkpoint_path" in message
        trains(module)

    @pytest.mark.parametrize("other_checkpoints", [False, True])
    def test_uuid_is_unknown(self, module: Any, other_checkpoints: bool) -> None:
        if other_checkpoints:
            train(module, loader())
            module.steps = 0
        name = str(uuid.uuid4())
        message = self.refused(module, name)
        folder = Path("determined_checkpoints").absolute()
        assert f"There is no checkpoint {name!r} in {folder}" in message
        trains(module)

    def test_file_instead_of_the_folder(self, module: Any, checkpoint: Path) -> None:
        message = self.refused(module, checkpoint / "state_dict.pth")
        assert "state_dict.pth" in message
        assert "does not exist" not in message, "the file is there; it is its folder that is wanted"

    @pytest.mark.parametrize("name", ["state_dict.pth", "trial_state.pkl"])
    def test_file_is_missing(self, module: Any, checkpoint: Path, name: str) -> None:
        (checkpoint / name).unlink()
        before = contents(checkpoint)
        message = self.refused(module, checkpoint)
        assert f"{checkpoint / name} is missing" in message
        assert "Resume from another one" in message
        assert contents(checkpoint) == before
        trains(module)

    @pytest.mark.parametrize("damage", [cut_short, empty])
    @pytest.mark.parametrize("name", ["state_dict.pth", "trial_state.pkl"])
    def test_file_is_damaged(self, module: Any, checkpoint: Path, name: str, damage: Callable[[Path], None]) -> None:
        damage(checkpoint / name)
        before = contents(checkpoint)
        message = self.refused(module, checkpoint)
        assert f"{checkpoint / name} is damaged or cut short" in message
        assert "Resume from another one" in message
        assert contents(checkpoint) == before
        trains(module)

    @pytest.mark.parametrize("saved", [[1, 2], {"state_dict": {}}, None], ids=["list", "other keys", "None"])
    def test_file_holds_something_else(self, module: Any, checkpoint: Path, saved: Any) -> None:
        torch.save(saved, checkpoint / "state_dict.pth")
        before = contents(checkpoint)
        assert str(checkpoint) in self.refused(module, checkpoint)
        assert contents(checkpoint) == before
        trains(module)

    def test_trial_state_holds_something_else(self, module: Any, checkpoint: Path) -> None:
        (checkpoint / "trial_state.pkl").write_bytes(pickle.dumps([1, 2]))
        assert str(checkpoint) in self.refused(module, checkpoint)
        trains(module)

    def test_module_has_other_shapes(self, pl: ModuleType, checkpoint: Path) -> None:
        before = contents(checkpoint)
        message = self.refused(tiny(pl)(width=5), checkpoint)
        assert f"the checkpoint {checkpoint} does not fit this module" in message
        assert "size mismatch for layer.weight" in message
        assert contents(checkpoint) == before

    def test_module_has_other_parameters(self, pl: ModuleType, checkpoint: Path) -> None:
        module = tiny(pl)()
        module.more = torch.nn.Linear(1, 1)
        message = self.refused(module, checkpoint)
        assert f"the checkpoint {checkpoint} does not fit this module" in message
        assert "more.weight" in message

    @pytest.mark.parametrize("form", [lambda path: path, str, os.path.relpath, lambda path: path.name])
    def test_can_still_be_used(self, module: Any, checkpoint: Path, form: Callable[[Path], Any]) -> None:
        """What the other tests of this class rely on: undamaged, it is continued."""
        before = contents(checkpoint)
        passes = []
        module.layer.register_forward_hook(lambda *_: passes.append(None))
        train(module, loader(), latest_checkpoint=form(checkpoint), max_length=pytorch.Batch(3))
        # The module counts on from where it was.
        assert (len(passes), module.steps) == (1, 3)
        assert contents(checkpoint) == before

    def test_the_way_torch_loads_is_restored(self, module: Any, checkpoint: Path) -> None:
        (checkpoint / "state_dict.pth").write_bytes(b"")
        before = dict(os.environ)
        self.refused(module, checkpoint)
        assert dict(os.environ) == before
