"""Imports what takes long, and then forks a process for each client.

Run as a program, with the path of its socket and that of the client.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import types
import warnings

IMPORTED = (
    "determined.pytorch",
    "determined.tensorboard.metric_writers.pytorch",
    "lightning.pytorch",
    "pytorch_lightning",
    "torch.distributed.run",
    "torch.utils.tensorboard",
    "torchmetrics",
)


def serve(address, lifeline):
    """Forks until the lifeline ends, and returns, in each fork, what the client has asked for."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    wake, waker = socket.socketpair()
    waker.setblocking(False)
    signal.set_wakeup_fd(waker.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    selector = selectors.DefaultSelector()
    for entry in (listener, wake, lifeline):
        selector.register(entry, selectors.EVENT_READ)
    clients = {}
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is lifeline:
                for process in clients.values():
                    kill(process)
                sys.exit()
            if key.fileobj is wake:
                wake.recv(4096)
                end_clients(clients, selector)
            elif key.fileobj is listener:
                client, _ = listener.accept()
                length, streams, _, _ = socket.recv_fds(client, 8, 3)
                request = json.loads(receive(client, int.from_bytes(length, "little")))
                process = os.fork()
                if process == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for entry in (selector, listener, wake, waker, client, *clients):
                        entry.close()
                    return streams, *request
                for stream in streams:
                    os.close(stream)
                client.sendall(b"%d\n" % process)
                clients[client] = process
                selector.register(client, selectors.EVENT_READ)
            elif key.fileobj in clients:
                # It has been killed.
                selector.unregister(key.fileobj)
                kill(clients[key.fileobj])


def receive(client, length):
    parts = []
    while length:
        parts.append(client.recv(length))
        length -= len(parts[-1])
    return b"".join(parts)


def kill(process):
    # With what it has started: it leads a process group.
    for end in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            end(process, signal.SIGKILL)


def end_clients(clients, selector):
    """Tells the clients of processes that have ended how they have."""
    while clients:
        process, status = os.waitpid(-1, os.WNOHANG)
        if process == 0:
            return
        client = next(client for client, its_process in clients.items() if its_process == process)
        del clients[client]
        with contextlib.suppress(KeyError):
            selector.unregister(client)
        with contextlib.suppress(BrokenPipeError):
            client.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        client.close()


def become(streams, arguments, environment, folder, is_leader, is_unbuffered):
    """Makes this process what a new one would be, but for what is imported."""
    os.setsid() if is_leader else os.setpgid(0, 0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    writes_through = is_unbuffered or bool(environment.get("PYTHONUNBUFFERED"))
    raw = io.FileIO(1, "w", closefd=False)
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(
        raw if writes_through else io.BufferedWriter(raw),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=os.isatty(1),
        write_through=writes_through,
    )
    sys.path[:] = [*filter(None, environment.get("PYTHONPATH", "").split(os.pathsep)), *sys.path]
    importlib.invalidate_caches()
    sys.orig_argv = [sys.executable, *(["-u"] if is_unbuffered else []), *arguments]
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules.pop("sitecustomize", None)
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")


def set_warning_options(options, default_count):
    """Filters warnings as PYTHONWARNINGS says. What packages have set when they were imported goes first."""
    own = warnings.filters[:]
    warnings.filters[:] = own[len(own) - default_count :]
    sys.warnoptions[:] = [option for option in options.split(",") if option]
    warnings._processoptions(sys.warnoptions)
    warnings.filters[:0] = own[: len(own) - default_count]
    warnings._filters_mutated()


def run(arguments, folder):
    """Does what Python does with its arguments."""
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__builtins__ = __builtins__
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        exec(compile(arguments[1], "<string>", "exec"), vars(main))
    elif arguments[0] == "-m":
        sys.argv = ["-m", *arguments[2:]]
        sys.path.insert(0, folder)
        runpy._run_module_as_main(arguments[1])
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.realpath(arguments[0])))
        main.__file__ = arguments[0]
        with open(arguments[0], "rb") as script:
            code = compile(script.read(), arguments[0], "exec")
        exec(code, vars(main))


address, client = sys.argv[1:]
given = set(map(os.path.abspath, os.environ.get("PYTHONPATH", "").split(os.pathsep)))
sys.path[:] = [entry for entry in sys.path[1:] if entry not in given]
default_count = len(warnings.filters)
for name in IMPORTED:
    importlib.import_module(name)
gc.collect()
gc.freeze()
lifeline = os.dup(0)
streams, arguments, environment, folder, *manner = serve(address, lifeline)
os.close(lifeline)
sys.executable = client
become(streams, arguments, environment, folder, *manner)
set_warning_options(environment.get("PYTHONWARNINGS", ""), default_count)
# Kept, or what this file has defined would be gone.
servers_main = sys.modules["__main__"]
failure = None
try:
    run(arguments, folder)
except Exception as error:
    # Without the calls of this file.
    while error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error.__traceback__ = error.__traceback__.tb_next
    failure = error
if failure is not None:
    sys.excepthook(type(failure), failure, failure.__traceback__)
    sys.exit(1)
