"""The versions that are installed, for tests of what not every version has."""

from __future__ import annotations

from typing import Any, Final

import pytorch_lightning
import torch
from packaging.specifiers import SpecifierSet


def has_lightning(versions: str) -> bool:
    """Whether the installed Lightning is one of some versions, given as a version specifier."""
    return SpecifierSet(versions).contains(pytorch_lightning.__version__, prereleases=True)


def has_torch(versions: str) -> bool:
    """Whether the installed PyTorch is one of some versions, given as a version specifier."""
    return SpecifierSet(versions).contains(torch.__version__, prereleases=True)


ALL_OF_THE_FILE: Final[dict[str, Any]] = {"weights_only": False} if has_lightning(">=2.6") else {}
"""Has ``Trainer.fit`` load all that a checkpoint holds; it has the argument since 2.6."""
