"""`python -m wasi.torch_for`: prints pip's constraints for torch on this machine, and the reason to stderr.

On aarch64 the registry's torch is a CPU build up to 2.10; later ones are CUDA builds that bring some 3 GB of CUDA
packages, which are of no use without an NVIDIA device. 2.10 has instructions that a Raspberry Pi 4 lacks
(pytorch#176993), so without an NVIDIA device 2.9 is the last that suits. Elsewhere pip decides. Standard library only.
"""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import which

CONSTRAINTS = ("torch<2.10", "torchvision<0.25")
# Files of NVIDIA's driver, and of a Jetson, which has no nvidia-smi.
_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-gpu", "/etc/nv_tegra_release")


def torch_for(system: str, machine: str, nvidia: bool, installed: str | None) -> tuple[tuple[str, ...], str]:
    """Return pip's constraints, and a line that says what is installed and why.

    Args:
        system: as of `platform.system`.
        machine: as of `platform.machine`.
        nvidia: whether there is an NVIDIA device.
        installed: the version of torch that is installed; None without one.
    """
    if installed is not None:
        return (), f"torch {installed} is installed already and stays"
    if system != "Linux" or machine not in ("aarch64", "arm64"):
        return (), f"torch as the registry has it for {system} on {machine}"
    if nvidia:
        return (), "torch as the registry has it, a CUDA build, as this machine has an NVIDIA device"
    reason = "its last CPU builds for aarch64; later ones bring 3 GB of CUDA packages, and no NVIDIA device is here"
    return CONSTRAINTS, f"{' and '.join(CONSTRAINTS)}: {reason}"


def has_nvidia() -> bool:
    return which("nvidia-smi") is not None or any(Path(sign).exists() for sign in _SIGNS)


def _installed() -> str | None:
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    lines, reason = torch_for(platform.system(), platform.machine(), has_nvidia(), _installed())
    print(reason, file=sys.stderr)
    print("\n".join(lines))
