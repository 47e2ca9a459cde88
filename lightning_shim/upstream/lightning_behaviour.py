"""What Lightning's Trainer does otherwise since one of its versions, as rows of data.

A trial does what the Trainer of the installed version does. What is the same in all the versions that setup.cfg accepts
has no row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from packaging.specifiers import SpecifierSet


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One thing that depends on the version."""

    versions: str  # the versions of Lightning that do it, as a version specifier
    sentence: str

    def is_of(self, version: str) -> bool:
        """Whether a version of Lightning does it."""
        return SpecifierSet(self.versions).contains(version, prereleases=True)


STEPS_SCHEDULERS_WHEN_AN_EPOCH_ENDS_EARLY: Final = Behaviour(
    ">=2.6", "If `on_train_batch_start` returns -1, learning rate schedulers are stepped as after the last batch."
)

STEPS_SCHEDULERS_ONCE_AFTER_A_RESTART: Final = Behaviour(
    ">=2.5",
    "At the end of an epoch that goes on from a checkpoint, schedulers of epochs are not stepped a second time.",
)

AUTOCASTS_WEIGHTS_EACH_TIME: Final = Behaviour(
    ">=2.5.5", "In mixed precision a weight is cast each time that a step uses it, and no cast is kept for the next."
)

TELLS_DATA_MODULES_OF_ERRORS: Final = Behaviour(
    ">=2.3", "`LightningDataModule.on_exception` is called when training raises an error."
)
