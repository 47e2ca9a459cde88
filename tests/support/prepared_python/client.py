#!REAL_PYTHON -IS
"""Stands for a process of the prepared Python: passes signals on to it, and ends as it has ended.

tests/support/prepared_python copies this file, with the paths in it.
"""

import json
import os
import resource
import signal
import socket
import sys

UNDERSTOOD = {"PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONWARNINGS"}
IRRELEVANT = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"}
PASSED_ON = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2]

arguments = sys.argv[1:]
# torchrun starts each process with it.
is_unbuffered = arguments[:1] == ["-u"]
if is_unbuffered:
    arguments = arguments[1:]
is_understood = bool(arguments) and (arguments[0] in ("-c", "-m") or not arguments[0].startswith("-"))
settings = {name for name in os.environ if name.startswith("PYTHON") and os.environ[name]}
if not is_understood or not settings <= UNDERSTOOD | IRRELEVANT or os.environ.get("OMP_NUM_THREADS") != "1":
    os.execv("REAL_PYTHON", ["REAL_PYTHON", *sys.argv[1:]])

# Kept back until there is a process to pass them on to.
signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
connection = socket.socket(socket.AF_UNIX)
connection.connect("ADDRESS")
is_leader = os.getsid(0) == os.getpid()
request = json.dumps([arguments, dict(os.environ), os.getcwd(), is_leader, is_unbuffered]).encode()
socket.send_fds(connection, [len(request).to_bytes(8, "little")], [0, 1, 2])
connection.sendall(request)
with connection.makefile("r") as answers:
    process = int(answers.readline())
    for number in PASSED_ON:
        signal.signal(number, lambda number, frame: os.kill(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = int(answers.readline())
if code >= 0:
    os._exit(code)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if -code != signal.SIGKILL:
    signal.signal(-code, signal.SIG_DFL)
os.kill(os.getpid(), -code)
