"""Which class of device a run gets, and how many processes train it, told without importing torch."""

import ctypes
import importlib.util
import os
import re
import sys
from functools import cache
from pathlib import Path


def device_class(name: str) -> str:
    """`cuda` or `cpu`, for a value of `device.name`; `auto` is CUDA where torch would find one."""
    if name == "auto":
        return "cuda" if _torch_finds_cuda() else "cpu"
    return "cuda" if name.split(":")[0] == "cuda" else "cpu"


def launched() -> tuple[int, int]:
    """This process's rank and their number, as `torchrun` tells them in the environment; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@cache
def is_raspberry_pi(name: str) -> bool:
    """Whether `device.name` is one, or this machine is."""
    try:
        board = Path("/proc/device-tree/model").read_text()
    except OSError:
        board = ""
    return name.startswith("pi") or board.startswith("Raspberry Pi")


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
    """GPUs that the driver's management library (NVML) knows; 0 without a driver. Opens no CUDA context."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
    nvml.nvmlShutdown()
    return count.value
