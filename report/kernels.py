"""Kernels that begin as copies of one process, which has imported what notebooks use.

Importing takes most notebooks longer than anything else. On Linux a server process, of
Python's own multiprocessing, imports once and is forked for each kernel; elsewhere
kernels start as ever.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import sys
from importlib.metadata import EntryPoint
from multiprocessing import forkserver
from typing import Any

from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_client.provisioning.local_provisioner import LocalProvisioner

PRELOADED = [
    "build",  # the program itself, which multiprocessing runs in each process
    "kernels",
    "ipykernel.ipkernel",
    "ipykernel.zmqshell",
    "skimage.io",
    "sklearn.ensemble",
    "sklearn.manifold",
    "cliplib.encoders.clip",
    "cliplib.probes.kernel",
    "study.baselines",
    "study.results",
]
"""What is missing here, a notebook imports itself: that takes longer, and no more."""


def fork_kernels() -> None:
    """On Linux, let all kernels that this process starts from now on be forked."""
    if sys.platform != "linux":
        return
    # For figures below a cell. A kernel sets it itself, but here that is too late: the
    # process that it is forked from has imported matplotlib already.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    multiprocessing.set_start_method("forkserver", force=True)
    forkserver.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
    group = KernelProvisionerFactory.GROUP_NAME
    factory = KernelProvisionerFactory.instance()
    provisioner = EntryPoint("forked", "kernels:ForkedProvisioner", group)
    factory.provisioners["forked"] = provisioner
    factory.default_provisioner_name = "forked"


class ForkedProvisioner(LocalProvisioner):
    """Starts a kernel on this machine by forking the process that has imported."""

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Fork a kernel in place of the command `cmd`, with the same arguments."""
        arguments = cmd[cmd.index("-f") :]
        folder = str(kwargs.get("cwd") or os.getcwd())
        kernel = ForkedKernel(
            target=become_kernel, args=(arguments, kwargs["env"], folder)
        )
        kernel.start()
        self.process = kernel  # type: ignore[assignment]
        self.pid = self.pgid = kernel.pid
        return self.connection_info


class ForkedKernel(multiprocessing.Process):
    """A forked kernel, with what a provisioner asks of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """Return the exit status, None while the kernel runs."""
        return self.exitcode

    def wait(self) -> int | None:
        """Wait for the kernel to end, and return its exit status."""
        self.join()
        return self.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel."""
        os.kill(self.pid or 0, number)


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

    # What is imported is never garbage: looking through it would take seconds.
    gc.freeze()
    # The default again, as in any kernel: with the forkserver's, a progress bar's lock
    # would outlive a kernel that is killed, and Python warn of it as the build ends.
    multiprocessing.set_start_method(None, force=True)
    os.setsid()  # an interrupted build ends its kernels itself
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    IPKernelApp.launch_instance(arguments)
    atexit._run_exitfuncs()  # which multiprocessing would leave out
