"""Chapters that start warm: forked from a process that has imported, once for all of them, what takes many seconds.

That process is the fork server of Python's `multiprocessing`. It has imported libraries alone: of our own code a chapter
runs what is there when it starts. It forks papermill's process, which forks the notebook's before it has threads.
"""

import atexit
import os
import runpy
import subprocess
import sys
from importlib.metadata import EntryPoint
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any, ClassVar

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from mae_helpers.profile.machine import pick_device
from mae_helpers.profile.progress import PROGRESS_FILE
from mae_helpers.run.usage import USAGE_FILE

LIBRARIES = [  # papermill's, a kernel's, and those that every chapter imports
    *("papermill.cli", "ipykernel.kernelapp", "torch", "timm", "pandas.io.formats.style", "seaborn", "scipy.io"),
    *("sklearn.linear_model", "pydantic"),
]
EACH = {"JUPYTER_PATH", PROGRESS_FILE, USAGE_FILE}  # variables that differ by chapter; no library reads them on import
INLINE = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}  # a kernel's, read on import
_lock, _served = Lock(), []


def run(command: list[str], folder: Path, variables: dict[str, str], device: str) -> subprocess.CompletedProcess:
    """Run `python -m papermill ...` to its end in a session of its own, as Ctrl-C is for us alone.

    It is forked where that is safe: on Linux, on no GPU, and where the server began with the same `variables`, which are
    set besides ours. The status is below 0 for a process that was killed.
    """
    with _lock:
        environment = os.environ | variables
        forked = sys.platform == "linux" and pick_device(device).type == "cpu" and _serves(variables)
    if not forked:
        how = {"stdin": subprocess.DEVNULL, "start_new_session": True, "capture_output": True}
        return subprocess.run(command, cwd=folder, env=environment, text=True, errors="replace", **how)
    with NamedTemporaryFile("r", errors="replace") as told:
        process = get_context("forkserver").Process(target=_papermill, args=(command, folder, environment, told.name))
        with _lock:  # `start` asks for other processes' statuses, each of which can be read once
            process.start()
        wait([process.sentinel])
        with _lock:
            return subprocess.CompletedProcess(command, process.exitcode, stderr=told.read())


def _serves(variables: dict[str, str]) -> bool:
    """Whether the server began with these variables, but for a chapter's own; the first call begins it with them."""
    shared = {name: value for name, value in variables.items() if name not in EACH}
    if not _served:
        _served.append(shared)
        before = dict(os.environ)
        os.environ.update(shared | INLINE)
        forkserver.set_forkserver_preload(LIBRARIES)
        forkserver.ensure_running()
        for name in shared | INLINE:
            os.environ.pop(name) if name not in before else os.environ.update({name: before[name]})
    return _served[0] == shared


def _become(command: list[str], folder: str, environment: dict[str, str], told: str) -> None:
    """Do what `python -m module ...` does there, in this environment; what it says on standard error goes to `told`."""
    os.setsid()
    for file, standard in ((os.devnull, 0), (os.devnull, 1), (told, 2)):
        os.dup2(os.open(file, os.O_RDWR | os.O_APPEND), standard)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for library in ("numpy.random", "torch"):  # as in a new process; Python's `random` does so itself
        sys.modules[library].seed()
    sys.argv, sys.path[0] = command[2:], ""
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # as a process of `multiprocessing` does not


def _papermill(command: list[str], folder: str, environment: dict[str, str], told: str) -> None:
    """Papermill's process, with the notebook's, which waits for its command, behind its provisioner."""
    heard, Provisioner.says = Pipe(duplex=False)
    Provisioner.kernel, Provisioner.told = Kernel(target=_notebook, args=(heard,)), told
    Provisioner.kernel.start()
    ours = EntryPoint("local-provisioner", f"{__name__}:Provisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.instance().provisioners[ours.name] = ours
    _become(command, folder, environment, told)


def _notebook(heard: Connection) -> None:
    Provisioner.says.close()
    try:
        what = heard.recv()
    except EOFError:  # papermill ended before it wanted a kernel
        return
    _become(*what)


class Kernel(get_context("fork").Process):
    """A forked process, as a provisioner wants `subprocess.Popen` to be."""

    stdin = stdout = stderr = None
    wait = get_context("fork").Process.join

    def poll(self) -> int | None:
        """The status, or None while it runs."""
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.is_alive():
            os.kill(self.pid, number)


class Provisioner(LocalProvisioner):
    """Where papermill would start a kernel's process, the one that waits for it begins."""

    kernel: ClassVar[Kernel]
    says: ClassVar[Connection]
    told: ClassVar[str]

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        """Give it the command and the environment."""
        self.process, self.pid, self.pgid = self.kernel, self.kernel.pid, self.kernel.pid
        self.says.send((cmd, os.getcwd(), options["env"], self.told))
        return self.connection_info
