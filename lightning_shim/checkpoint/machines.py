"""Files of rank 0's machine for the processes of other machines: containers share no disk."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed

from lightning_shim.diagnostics.lines import say

CHUNK: Final = 2**24
"""The bytes of a file that are in memory, and on their way, at a time."""

_TIME_LIMIT: Final = datetime.timedelta(minutes=30)
"""For one chunk: a disk may be slow."""


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    size: int
    time: int

    @classmethod
    def of(cls, path: str) -> _File:
        status = os.stat(path)
        return cls(path, status.st_size, status.st_mtime_ns)


def share(paths: Iterable[str | os.PathLike[str]], *, replaces: bool) -> None:
    """Has files of rank 0 on every machine, under the same paths. All processes call it together.

    Each machine receives a file once, by its first process. A machine that has the file already, such as by a disk in
    common, receives nothing unless it ``replaces`` a file. What rank 0 does not have is left out.
    """
    # torchrun's variable; each machine of a cluster is a container.
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1" or not torch.distributed.is_initialized():
        return
    # With gloo, since NCCL takes a GPU, and what is sent is on the host.
    everyone = torch.distributed.new_group(backend="gloo", timeout=_TIME_LIMIT)
    local_ranks: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(local_ranks, int(os.environ["LOCAL_RANK"]), group=everyone)
    first = [rank for rank, local_rank in enumerate(local_ranks) if local_rank == 0]
    group = torch.distributed.new_group(first, backend="gloo", timeout=_TIME_LIMIT)
    if torch.distributed.get_rank() in first:
        _share(paths, group, replaces)
    # Until then the other processes of a machine do not look for the files.
    torch.distributed.barrier(everyone)
    for each in (group, everyone):
        torch.distributed.destroy_process_group(each)


def _share(paths: Iterable[str | os.PathLike[str]], group: Any, replaces: bool) -> None:
    is_source = torch.distributed.get_rank() == 0
    files = [_File.of(os.fspath(path)) for path in paths if os.path.isfile(path)] if is_source else []
    offer: list[Any] = [files]
    torch.distributed.broadcast_object_list(offer, src=0, group=group)
    for file in offer[0]:
        wanted = not is_source and not _has(file, replaces)
        if not any(_gathered(wanted, group)):
            continue
        problem = None
        if is_source:
            _send(file, group)
        else:
            problem = _receive(file, group, wanted)
        for machine, reason in enumerate(_gathered(problem, group)):
            if reason is not None:
                say(f"{file.path} of rank 0's machine is not on machine {machine}: {reason}")


def _has(file: _File, replaces: bool) -> bool:
    return os.path.isfile(file.path) and not (replaces and _File.of(file.path) != file)


def _gathered(value: Any, group: Any) -> list[Any]:
    values: list[Any] = [None] * torch.distributed.get_world_size(group)
    torch.distributed.all_gather_object(values, value, group=group)
    return values


def _chunks(file: _File) -> Iterator[torch.Tensor]:
    """Returns room for each chunk of a file, always in the same memory."""
    memory = torch.empty(min(CHUNK, file.size), dtype=torch.uint8)
    return (memory[: file.size - start] for start in range(0, file.size, CHUNK))


def _send(file: _File, group: Any) -> None:
    with open(file.path, "rb") as stream:
        for chunk in _chunks(file):
            stream.readinto(chunk.numpy().data)
            torch.distributed.broadcast(chunk, src=0, group=group)


def _receive(file: _File, group: Any, wanted: bool) -> str | None:
    """Writes a file if it is wanted; returns why it could not be written."""
    chunks = _received(file, group)
    partial = f"{file.path}.part"
    try:
        if wanted:
            os.makedirs(os.path.dirname(os.path.abspath(file.path)), exist_ok=True)
            with open(partial, "wb") as stream:
                for chunk in chunks:
                    stream.write(chunk.numpy().data)
            os.utime(partial, ns=(file.time, file.time))
            os.replace(partial, file.path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.remove(partial)
        return str(error)
    finally:
        # The machines that want it wait for those that do not, or have no room for it.
        for _ in chunks:
            pass
    return None


def _received(file: _File, group: Any) -> Iterator[torch.Tensor]:
    for chunk in _chunks(file):
        torch.distributed.broadcast(chunk, src=0, group=group)
        yield chunk
