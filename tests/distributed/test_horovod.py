"""Horovod, which Determined knows as well."""

from __future__ import annotations

import pytest
from determined import pytorch

import lightning_shim
from tests.parity.modules import Regression, loaders

REFUSAL = r"started for Horovod \(USE_HOROVOD is set\).*Start them with determined\.launch\.torch_distributed"


@pytest.mark.usefixtures("patched")
def test_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytorch.init() as context:
        monkeypatch.setenv("USE_HOROVOD", "1")
        with pytest.raises(lightning_shim.ConfigurationError, match=REFUSAL):
            lightning_shim.LightningTrial(context, Regression(), **loaders())
    with pytest.raises(lightning_shim.ConfigurationError, match=REFUSAL):
        lightning_shim.fit(Regression, **loaders(), max_length=pytorch.Batch(1))
