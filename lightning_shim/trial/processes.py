"""How the processes of a trial meet, and part: none of them leaves the others waiting for it."""

from __future__ import annotations

import atexit
import contextlib
import datetime
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import connection
from types import TracebackType
from typing import Any, Final

import torch
import torch.distributed
from determined import core
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_shim.upstream.determined.context import is_on_cluster

PATIENCE = 60.0
"""For how many seconds a process waits for the others to give up as well, or for itself to end without one of them."""


class Processes:
    """The processes that train together.

    Made on all of them at once, before anything that may fail on one of them. As a context manager it stops watching
    the others if the block raises.

    Args:
        rank: The index of this process, for Lightning's ``rank_zero_only`` too.
        size: How many they are.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._attendance: _Attendance | None = None
        self._group: Any = None
        if size == 1:
            return
        # As Lightning's DDPStrategy does: whoever imports it before the ranks are known has guessed.
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        # Gloo's, since a barrier of NCCL's does not end with the time, but takes the process down.
        timeout = datetime.timedelta(seconds=PATIENCE)
        self._group = torch.distributed.new_group(backend="gloo", timeout=timeout)
        self._attendance = _Attendance(rank, size, self._group)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.stop_watching()

    def all_give_up(self) -> bool:
        """Waits until all processes have called it.

        Returns:
            Whether they have, within the time.
        """
        if self._group is None:
            return True
        try:
            torch.distributed.barrier(self._group)
        except RuntimeError:
            return False
        return True

    def part(self) -> None:
        """Tells the others that this process has done its part, so that it may end before them."""
        if self._attendance is not None:
            self._attendance.say_farewell()
        self.stop_watching()

    def stop_watching(self) -> None:
        """Lets this process go on without the others, which it leaves waiting if they do not fail as well."""
        if self._attendance is not None:
            self._attendance.is_watching = False


class _Attendance:
    """Notices that another process has ended while this one may be waiting for it.

    A launcher takes all processes down when one of them fails. It takes exit status 0 for success, and Determined's
    exchange (``determined.ipc``) waits for a process that is gone without a limit.

    Rank 0 is connected with all others; each connection ends with its processes.
    """

    def __init__(self, rank: int, size: int, group: Any) -> None:
        self._rank: Final = rank
        self.is_watching = True
        self._connections: Final = self._connect(rank, size, group)
        threading.Thread(target=self._watch, name="lightning_shim attendance", daemon=True).start()

    @staticmethod
    def _connect(rank: int, size: int, group: Any) -> dict[connection.Connection, int]:
        """Returns the connections to other processes, with their ranks."""
        # torchrun has said where rank 0 can be reached.
        host, key = os.environ["MASTER_ADDR"], os.urandom(32)
        if rank == 0:
            with connection.Listener(("", 0), backlog=size, authkey=key) as listener:
                torch.distributed.broadcast_object_list([listener.address[1], key], src=0, group=group)
                accepted = [listener.accept() for _ in range(size - 1)]
            return {each: each.recv() for each in accepted}
        offer: list[Any] = [None, None]
        torch.distributed.broadcast_object_list(offer, src=0, group=group)
        client = connection.Client((host, offer[0]), authkey=offer[1])
        client.send(rank)
        return {client: 0}

    def say_farewell(self) -> None:
        for each in self._connections:
            # Whoever has ended already has said so.
            with contextlib.suppress(OSError):
                each.send_bytes(b"farewell")

    def _watch(self) -> None:
        present = dict(self._connections)
        while present:
            for each in connection.wait(list(present)):
                assert isinstance(each, connection.Connection)
                rank = present.pop(each)
                with each:
                    try:
                        each.recv_bytes()
                    except (EOFError, OSError):
                        self._end_without(rank)

    def _end_without(self, rank: int) -> None:
        """Ends this process if nothing else has, since it may wait for the other one for ever."""
        # It has failed by itself meanwhile, or its launcher has taken it down, if the other one has failed.
        time.sleep(PATIENCE)
        if not self.is_watching:
            return
        print(
            f"lightning_shim: rank {rank} has ended before the trial, and its launcher took that for success. "
            f"Rank {self._rank} cannot go on without it, and ends as well. What ends a trial has to happen on all "
            f"ranks: the log of rank {rank} may say what has ended it.",
            file=sys.stderr,
        )
        sys.stdout.flush()
        sys.stderr.flush()
        # The main thread waits where no exception reaches it.
        os._exit(1)


def join_processes() -> core.DistributedContext | None:
    """Starts the process group that torchrun has prepared, off-cluster; on a cluster Determined does it."""
    if is_on_cluster() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    # Determined chooses its backend by this variable, which the processes of a training keep.
    os.environ.setdefault("USE_TORCH_DISTRIBUTED", "true")
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        # Not sooner, as in Lightning: another group would find the addresses of this one in torchrun's store.
        atexit.register(_leave_processes)
    rank = torch.distributed.get_rank()
    # Determined's processes talk through two ports of their own. Those of the last training of this script are not
    # free for certain, since ZeroMQ closes them in its own time, nor are Determined's own if another script trains.
    with _free_ports(2) as ports:
        # The group is gloo's, since NCCL would choose a device, which is Determined's to choose.
        torch.distributed.broadcast_object_list(ports, src=0, group=torch.distributed.new_group(backend="gloo"))
        return core.DistributedContext(
            rank=rank,
            size=torch.distributed.get_world_size(),
            local_rank=int(os.environ["LOCAL_RANK"]),
            local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
            cross_rank=int(os.environ["GROUP_RANK"]),
            cross_size=int(os.environ["GROUP_WORLD_SIZE"]),
            chief_ip=os.environ["MASTER_ADDR"],
            pub_port=ports[0],
            pull_port=ports[1],
        )


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Keeps ports from being given to others until they are in use, as ZeroMQ uses them."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            # ZeroMQ sets it as well: both may then have the port, of whom only ZeroMQ listens.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("", 0))
        yield [each.getsockname()[1] for each in sockets]


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
