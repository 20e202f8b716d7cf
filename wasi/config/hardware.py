"""Which class of device a run gets, and how many processes train it, told without importing torch."""

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


def device_class(name: str) -> str:
    """`cuda` or `cpu`, for a value of `device.name`; `auto` is CUDA where torch would find one."""
    if name == "auto":
        return "cuda" if _torch_finds_cuda() else "cpu"
    return "cuda" if name.split(":")[0] == "cuda" else "cpu"


class Launch(NamedTuple):
    """This process's rank, and how many processes there are, as `torchrun` tells them in the environment."""

    rank: int
    world_size: int


def launched() -> Launch:
    """Rank 0 of 1 without `torchrun`."""
    return Launch(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


@cache
def is_raspberry_pi(name: str) -> bool:
    """Whether `device.name` is one, or this machine is."""
    try:
        board = Path("/proc/device-tree/model").read_text()
    except OSError:
        board = ""
    return name.startswith("pi") or board.startswith("Raspberry Pi")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(_gpu_count())]
    return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]


def gpus_for(device: str) -> int:
    """How many GPUs jobs with `device.name` can have here; 0 where they run on the CPU."""
    return len(visible_gpus()) if device_class(device) == "cuda" else 0


def places_for(device: str, threads: int | None) -> int:
    """Jobs that run side by side here: one for each GPU, or as many as the cores serve with `threads` each."""
    return gpus_for(device) or max(1, _cores() // threads if threads else 1)


def cores_of_job(device: str, threads: int | None) -> int:
    """The cores of one of the jobs that run side by side here."""
    return threads or max(1, _cores() // places_for(device, threads))


def most_side_by_side() -> int:
    """Threads or processes above which more of them can only be a mistake, and may take the machine down."""
    return max(16, 4 * _cores())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _torch_finds_cuda() -> bool:
    if "torch" in sys.modules:
        return sys.modules["torch"].cuda.is_available()
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    return not hidden and _torch_is_built_with_cuda() and _gpu_count() > 0


def _torch_is_built_with_cuda() -> bool:
    """As the installed torch/version.py says."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    version = Path(found.origin).with_name("version.py")
    return version.is_file() and re.search(r"^cuda\b.*= *'", version.read_text(), re.MULTILINE) is not None


def _gpu_count() -> int:
    """GPUs that the driver's management library knows; 0 without a driver."""
    count = ctypes.c_uint(0)
    with _nvml() as nvml:
        if nvml is not None:
            nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    return count.value


def gpu_driver() -> str | None:
    """The version of NVIDIA's driver; None without one."""
    told = ctypes.create_string_buffer(80)
    with _nvml() as nvml:
        if nvml is not None:
            nvml.nvmlSystemGetDriverVersion(told, ctypes.c_uint(len(told)))
    return told.value.decode() or None


@contextmanager
def _nvml() -> Iterator[ctypes.CDLL | None]:
    """The driver's management library (NVML); None without a driver. Opens no CUDA context."""
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
