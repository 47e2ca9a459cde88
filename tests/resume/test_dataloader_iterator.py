"""Steps that take the loaders' iterator in place of a batch go on with the batch after the last that they took."""

from __future__ import annotations

import pytest

from tests.parity.modules import loaders
from tests.parity.oracle import Case
from tests.parity.test_dataloader_iterator import ByHand, Iterating, Several
from tests.resume.conftest import Resumes


@pytest.mark.parametrize("module", [Iterating, Several, ByHand])
def test_every_checkpoint(resumes: Resumes, module: type) -> None:
    assert resumes.everywhere(Case(module, loaders, max_epochs=2))
