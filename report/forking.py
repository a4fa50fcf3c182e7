"""Kernels that begin as copies of one process, which has imported what notebooks use.

Importing takes most notebooks longer than anything else. On Linux a server process, of
Python's own multiprocessing, imports once and is forked for each kernel; elsewhere
kernels start as ever.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from importlib.metadata import EntryPoint
from multiprocessing import forkserver
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

REPORT = os.path.dirname(os.path.abspath(__file__))
FORKED = sys.platform == "linux"
forked: dict[int, list[str]] = {}
"""The command of each kernel that was forked, by process id."""


def fork_kernels() -> None:
    """On Linux, let all kernels that this process starts from now on be forked."""
    if not FORKED:
        return
    # For figures below a cell. A kernel sets it itself, but here that is too late: the
    # process that it is forked from has imported matplotlib already.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    _start_server()
    group = KernelProvisionerFactory.GROUP_NAME
    factory = KernelProvisionerFactory.instance()
    factory.provisioners["forked"] = EntryPoint(
        "forked", "forking:ForkedProvisioner", group
    )
    factory.default_provisioner_name = "forked"


def _start_server() -> None:
    """Start the process that imports ``preloaded.py``, and do not wait for it."""
    given = os.environ.get("PYTHONPATH")
    # There it finds the modules that it is to import.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (REPORT, given)))
    try:
        modules = ["fastimports", "__main__", "forking", "preloaded"]
        forkserver.set_forkserver_preload(modules)
        forkserver.ensure_running()
    finally:
        if given is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = given


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel on this machine by forking the process that has imported."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Fork a kernel in place of the command `cmd`, with the same arguments."""
        arguments = cmd[cmd.index("-f") :]
        self.cwd = kwargs.get("cwd") or os.getcwd()
        process = ForkedProcess(arguments, kwargs["env"], str(self.cwd))
        # It has those methods of a Popen that jupyter_client calls.
        self.process = process  # type: ignore[assignment]
        self.pid = self.pgid = process.pid
        forked[process.pid] = cmd
        return self.connection_info


class ForkedProcess:
    """A forked kernel, with what a provisioner asks of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(
        self, arguments: list[str], environment: dict[str, str], folder: str
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(
            target=become_kernel, args=(arguments, environment, folder)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        """Return the exit status, None while the kernel runs."""
        return self._process.exitcode

    def wait(self) -> int | None:
        """Wait for the kernel to end, and return its exit status."""
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask the kernel to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End the kernel."""
        self._process.kill()


def become_kernel(
    arguments: list[str], environment: dict[str, str], folder: str
) -> None:
    """Run a kernel in this process until it is shut down.

    It does what ``python -m ipykernel_launcher`` does, with these arguments, in this
    environment and working directory.
    """
    # Not above: where it is imported, tqdm takes every process for a notebook, whose
    # bars a terminal shows at 0% alone.
    from ipykernel.kernelapp import IPKernelApp

    # The default again, as in any kernel: with the forkserver's, a progress bar's lock
    # would outlive a kernel that is killed, and Python warn of it as the build ends.
    multiprocessing.set_start_method(None, force=True)
    os.setsid()  # an interrupted build ends its kernels itself
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:] = [place for place in sys.path if place not in ("", REPORT)]
    IPKernelApp.launch_instance(arguments)
    atexit._run_exitfuncs()  # which multiprocessing would leave out
