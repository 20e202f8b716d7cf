"""Devices, cores and processes that a run can use, and what NVIDIA's driver tells of its GPUs.

Nothing here imports torch. Where it is imported already, it is asked whether it finds a CUDA device; elsewhere the
driver and torch's files are.
"""

import ctypes
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

from wasi.cores import usable_cores
from wasi.errors import UserError

_WHOLE = re.compile("[0-9]{1,9}")


def device_class(name: object) -> str:
    """Return `cuda` or `cpu` for a value of `device.name`; `auto` is `cuda` where torch would find a CUDA device.

    A value that is refused, which results of failed runs have too, counts as `cpu`.
    """
    if name == "auto":
        return "cuda" if _torch_finds_cuda() else "cpu"
    return "cuda" if str(name).split(":")[0] == "cuda" else "cpu"


class Launch(NamedTuple):
    """This process's rank and the number of processes of its run."""

    rank: int
    world_size: int


def launched() -> Launch:
    """Read `Launch` from the environment variables RANK and WORLD_SIZE of `torchrun`; rank 0 of 1 without them.

    Raises:
        UserError: one of its variables is set to what `torchrun` would not set, or is not set where it would be.
    """
    processes, rank = _of_torchrun("WORLD_SIZE", 1, least=1), os.environ.get("RANK", "0")
    if not _WHOLE.fullmatch(rank) or int(rank) >= processes:
        raise UserError("RANK", rank, f"a whole number from 0 up, below WORLD_SIZE={processes}, or not set")
    _of_torchrun("LOCAL_WORLD_SIZE", 1, least=1)
    _of_torchrun("LOCAL_RANK", 0, least=0)
    if processes > 1:
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
        if missing:
            allowed = f"1, or not set, without {' and '.join(missing)}: torchrun sets all of them"
            raise UserError("WORLD_SIZE", processes, allowed)
        _of_torchrun("MASTER_PORT", 0, least=0)  # not of one process: Kubernetes gives it an address for a service
    return Launch(int(rank), processes)


def _of_torchrun(name: str, default: int, least: int) -> int:
    """Return one of `torchrun`'s environment variables; raises UserError if it is no whole number from `least` up."""
    text = os.environ.get(name, str(default))
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise UserError(name, text, f"a whole number from {least} up (torchrun sets it), or not set")
    return int(text)


def processes_here() -> int:
    """Return how many processes of this run are on this machine: `torchrun`'s LOCAL_WORLD_SIZE, or 1 without it."""
    return _of_torchrun("LOCAL_WORLD_SIZE", 1, least=1) if launched().world_size > 1 else 1


@cache
def is_raspberry_pi(name: str) -> bool:
    """Return whether `name`, a value of `device.name`, means a Raspberry Pi, or this machine is one."""
    try:
        board = Path("/proc/device-tree/model").read_text()
    except OSError:
        board = ""
    return name.startswith("pi") or board.startswith("Raspberry Pi")


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(_gpu_count())]
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


def gpus_for(device: str) -> int:
    """Return how many GPUs of this machine jobs with `device.name=DEVICE` can use; 0 if they run on the CPU."""
    return len(visible_gpus()) if device_class(device) == "cuda" else 0


def jobs_side_by_side(device: str, threads: int | None) -> int:
    """Return how many jobs run side by side on this machine: one per GPU, or one per `threads` cores.

    On a CPU it is 1 if `threads` is None, as every job then uses all cores.
    """
    return gpus_for(device) or max(1, usable_cores() // threads if threads else 1)


def cores_of_job(device: str, threads: int | None) -> int:
    """Return how many cores each of the jobs that run side by side has: `threads`, or an equal share of all cores."""
    return threads or max(1, usable_cores() // jobs_side_by_side(device, threads))


def worker_limit() -> int:
    """Return the largest number of threads or processes that is accepted: 4 per core, and at least 16.

    More can only be a mistake, and may make the machine unusable.
    """
    return max(16, 4 * usable_cores())


@cache
def _torch_finds_cuda() -> bool:
    if "torch" in sys.modules:
        return sys.modules["torch"].cuda.is_available()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and _torch_is_built_with_cuda() and _gpu_count() > 0


def _torch_is_built_with_cuda() -> bool:
    """Return whether the installed torch/version.py names a CUDA version."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    version = Path(found.origin).with_name("version.py")
    return version.is_file() and re.search(r"^cuda\b.*= *'", version.read_text(), re.MULTILINE) is not None


def _gpu_count() -> int:
    """Return the number of GPUs that the driver's management library reports; 0 without a driver."""
    count = ctypes.c_uint(0)
    with _nvml() as nvml:
        if nvml is not None:
            nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return count.value


def gpu_driver() -> str | None:
    """Return the version of NVIDIA's driver; None without one."""
    version = ctypes.create_string_buffer(80)
    with _nvml() as nvml:
        if nvml is not None:
            nvml.nvmlSystemGetDriverVersion(version, ctypes.c_uint(len(version)))
    return version.value.decode() or None


def gpu_joules(gpu: str) -> float | None:
    """Return the joules that a GPU, named as by `visible_gpus`, has consumed since its driver was loaded.

    Only differences are meaningful. None without a driver, and for a GPU without this counter: one older than Volta, or
    a part of one (MIG).
    """
    device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
    with _nvml() as nvml:
        if nvml is None:
            return None
        if gpu.isdecimal():
            failed = nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(gpu)), ctypes.byref(device))
        else:
            failed = nvml.nvmlDeviceGetHandleByUUID(gpu.encode(), ctypes.byref(device))
        failed = failed or nvml.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules))
    return None if failed else millijoules.value / 1000


@contextmanager
def _nvml() -> Iterator[ctypes.CDLL | None]:
    """Yield the driver's management library (NVML), or None without a driver; this opens no CUDA context."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        nvml = None
    if nvml is None or nvml.nvmlInit_v2() != 0:
        yield None
        return
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()
