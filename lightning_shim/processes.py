"""How the processes of a trial meet, and part: none of them leaves the others waiting for it."""

from __future__ import annotations

import datetime

import torch.distributed
from lightning_utilities.core.rank_zero import rank_zero_only

PATIENCE = 60.0
"""For how many seconds a process that has given up waits for the others to give up as well."""


class Processes:
    """The processes that train together.

    Made on all of them at once.

    Args:
        rank: The index of this process, for Lightning's ``rank_zero_only`` too.
    """

    def __init__(self, rank: int) -> None:
        # As Lightning's DDPStrategy does: whoever imports it before the ranks are known has guessed.
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        # Gloo's, since a barrier of NCCL's does not end with the time, but takes the process down.
        timeout = datetime.timedelta(seconds=PATIENCE)
        self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)

    def all_give_up(self) -> bool:
        """Waits until all processes have called it.

        Returns:
            Whether they have, within the time.
        """
        try:
            torch.distributed.barrier(self._group)
        except RuntimeError:
            return False
        return True
