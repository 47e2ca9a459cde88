"""The processes of a trial: how they find each other, and how none of them waits for another that has ended."""

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

from lightning_shim.upstream.determined.context import is_on_cluster, own_device
from lightning_shim.upstream.lightning_strategy import is_distributed

PATIENCE = 60.0
"""The seconds that a process waits for the others to give up too, or before it ends because another has."""


class Processes:
    """The processes that train together.

    Create it on all of them at the same time, before anything that may fail on one of them. As a context manager it
    stops watching the others if the block raises.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._attendance: _Attendance | None = None
        self._group: Any = None
        if size == 1:
            return
        # As Lightning's DDPStrategy does: if Lightning was imported before the ranks were known, this was a guess.
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        # With gloo a barrier that times out raises an error; with NCCL it takes the whole process down.
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
        """Waits until all processes have called it; returns whether they have within :data:`PATIENCE`."""
        if self._group is None:
            return True
        try:
            torch.distributed.barrier(self._group)
        except RuntimeError:
            return False
        return True

    def part(self) -> None:
        """Tells the others that this process has finished, so that it may end before them."""
        if self._attendance is not None:
            self._attendance.say_farewell()
        self.stop_watching()

    def stop_watching(self) -> None:
        """Lets this process continue even if another one ends."""
        if self._attendance is not None:
            self._attendance.is_watching = False


class _Attendance:
    """Notices that another process has ended, and ends this one, which would wait for it for ever.

    If a process fails, its launcher stops all the others. But if it ends with exit status 0, the launcher takes that
    for success, and Determined's communication (``determined.ipc``) waits for it without a limit.

    Rank 0 has a socket to each other process. The operating system closes it when either of the two ends, however that
    happens; nobody has to send anything, and no process can forget to.
    """

    def __init__(self, rank: int, size: int, group: Any) -> None:
        self._rank: Final = rank
        self.is_watching = True
        self._connections: Final = self._connect(rank, size, group)
        threading.Thread(target=self._watch, name="lightning_shim attendance", daemon=True).start()

    @staticmethod
    def _connect(rank: int, size: int, group: Any) -> dict[connection.Connection, int]:
        """Connects rank 0 with the others, and returns the connections of this process with the ranks at their ends."""
        # torchrun's variable for the machine of rank 0. The key keeps other programs out of the port.
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
        """Announces that the connections are about to close in good order."""
        for each in self._connections:
            # A process that has ended before has said farewell itself, and its end of the connection is closed.
            with contextlib.suppress(OSError):
                each.send_bytes(b"farewell")

    def _watch(self) -> None:
        present = dict(self._connections)
        while present:
            for each in connection.wait(list(present)):
                assert isinstance(each, connection.Connection)
                rank = present.pop(each)
                # It is left open, and closed with this object: the main thread may be saying farewell through it.
                try:
                    each.recv_bytes()
                except (EOFError, OSError):
                    self._end_without(rank)

    def _end_without(self, rank: int) -> None:
        """Ends this process, unless it ends by itself in time."""
        # If the other one has failed, this one fails too in the meantime, or its launcher stops it.
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
        # sys.exit would end this thread only, and the main thread waits in C code that no exception interrupts.
        os._exit(1)


def join_processes(strategy: Any) -> core.DistributedContext | None:
    """Starts the process group of torchrun's processes off-cluster; on a cluster Determined does it.

    Determined's own context, on a cluster or of one process, is None.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if is_distributed(strategy):
            _start_group(store=torch.distributed.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        return None
    if is_on_cluster():
        return None
    # Determined wraps models in DistributedDataParallel if this variable is set, as its own launcher sets it.
    os.environ.setdefault("USE_TORCH_DISTRIBUTED", "true")
    _start_group()
    rank = torch.distributed.get_rank()
    # Determined's processes communicate through two ports. Its default ones may be in use by another script that
    # trains, and those of this script's previous training may be too, since ZeroMQ closes them in the background.
    with _free_ports(2) as ports:
        # With gloo, since NCCL would initialize a GPU before Determined has chosen one.
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
    """Reserves free ports for the block, within which ZeroMQ takes them."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            # ZeroMQ sets the same option, so both can bind the port. Only ZeroMQ listens on it.
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("", 0))
        yield [each.getsockname()[1] for each in sockets]


def _start_group(**arguments: Any) -> None:
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group(backend="nccl" if own_device().type == "cuda" else "gloo", **arguments)
        # At the exit, as in Lightning, since a second group in the same script would find the addresses of this one in
        # torchrun's store.
        atexit.register(_leave_processes)


def _leave_processes() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
