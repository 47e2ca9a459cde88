"""Those warnings that Lightning gives once in a process."""

from __future__ import annotations

import sys

from lightning_utilities.core.rank_zero import WarningCache


def forget_given_warnings() -> None:
    """Lets Lightning give them again, as in a process of its own."""
    for imported in list(sys.modules.values()):
        cache = vars(imported).get("warning_cache")
        if isinstance(cache, WarningCache):
            cache.clear()
