"""The exit codes of the commands."""

from __future__ import annotations

from typing import Final

FINE: Final = 0
REFUSED: Final = 1
UNUSABLE: Final = 2
"""The command cannot be carried out."""
