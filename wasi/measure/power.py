"""Measure electric power, on machines that report it. Importing this does not import torch.

- `vcgencmd pmic_read_adc`: the output of a Raspberry Pi 5's PMIC, without its own losses and USB devices;
- RAPL (`/sys/class/powercap`): the energy counters of x86 processor packages, readable by root alone by default;
- NVML, the library of NVIDIA's driver: the energy counter of the GPU in use, for work on CUDA;
- `nvidia-smi`: the power draw of a GPU without such a counter, averaged over a second by most GPUs.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wasi.config.hardware import gpu_joules, visible_gpus
from wasi.measure.telemetry import SYSFS, Run, run_tool

_PERIOD = 0.5  # seconds between readings of instantaneous power


@dataclass
class Used:
    """The result of `Meter.running`: mean power in watts; None while it runs, and if there was no valid reading."""

    watts: float | None = None


@dataclass(frozen=True)
class Meter:
    """A source of power measurements, with one of two ways to read it.

    Args:
        source: its name.
        joules: reads a counter of consumed energy.
        watts: reads the instantaneous power, for sources without such a counter; it is sampled periodically.
    """

    source: str
    joules: Callable[[], float | None] | None = None
    watts: Callable[[], float | None] | None = None

    @contextmanager
    def running(self) -> Iterator[Used]:
        """Measure what runs within this context; afterwards, `watts` of the yielded object is the mean power."""
        used = Used()
        if self.joules is None:
            assert self.watts is not None  # a meter has either `joules` or `watts`
            with _sampled(self.watts) as readings:
                yield used
            used.watts = sum(readings) / len(readings) if readings else None
            return
        before, begin = self.joules(), time.monotonic()  # both clock readings follow one of the counter
        yield used
        after, seconds = self.joules(), time.monotonic() - begin
        if before is not None and after is not None and after >= before:  # else the counter wrapped around
            used.watts = (after - before) / seconds


def power_meter(device: str, run: Run = run_tool, sysfs: Path = SYSFS) -> Meter | None:
    """Return the meter for work on `device` (`cpu`, `cuda` or `cuda:0`), or None if this machine has none.

    Args:
        run: runs a command, as `run_tool` does.
        sysfs: root of the sysfs file system.
    """
    if device.startswith("cuda"):
        gpu = _gpu(device)
        if gpu_joules(gpu) is not None:
            return Meter("NVML energy counter", joules=lambda: gpu_joules(gpu))
        command = ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--id={gpu}")
        if parse_gpu_watts(run(command)) is None:
            return None
        return Meter("nvidia-smi power.draw", watts=lambda: parse_gpu_watts(run(command)))
    if parse_power(run(_PMIC)) is not None:
        return Meter("vcgencmd pmic_read_adc", watts=lambda: parse_power(run(_PMIC)))
    if package_joules(sysfs) is not None:
        return Meter("RAPL packages", joules=lambda: package_joules(sysfs))
    return None


def parse_power(output: str | None) -> float | None:
    """Return watts from `vcgencmd pmic_read_adc`: volts times amperes, summed over the rails that report both."""
    readings = re.findall(r"(\S+)_([AV])\s+(current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)([AV])", output or "")
    amperes = {rail: float(value) for rail, _, kind, value, _ in readings if kind == "current"}
    volts = {rail: float(value) for rail, _, kind, value, _ in readings if kind == "volt"}
    both = amperes.keys() & volts.keys()
    return sum(amperes[rail] * volts[rail] for rail in both) if both else None


def parse_gpu_watts(output: str | None) -> float | None:
    """Return watts from `nvidia-smi --query-gpu=power.draw`, or None if it reports none.

    >>> parse_gpu_watts("61.25\\n"), parse_gpu_watts("[N/A]\\n")
    (61.25, None)
    """
    try:
        return float((output or "").splitlines()[0])
    except (IndexError, ValueError):
        return None


def package_joules(sysfs: Path) -> float | None:
    """Return the RAPL energy counters in joules, summed over all packages; None if they cannot be read.

    Only differences are meaningful. Packages are the zones `intel-rapl:N` named `package-N`, on AMD too. Not added are
    their parts, cores and memory (`intel-rapl:N:M`), and the zone `psys` of some laptops, the platform around them.
    """
    zones = [zone for zone in sysfs.glob("class/powercap/intel-rapl:*") if zone.name.count(":") == 1]
    try:
        counters = [zone / "energy_uj" for zone in zones if (zone / "name").read_text().startswith("package")]
        return sum(int(counter.read_text()) for counter in counters) / 1e6 if counters else None
    except (OSError, ValueError):
        return None


_PMIC = ("vcgencmd", "pmic_read_adc")


def _gpu(device: str) -> str:
    """Return the number or UUID of `device` in NVML and `nvidia-smi`; `cuda` means `cuda:0`.

    CUDA numbers the visible GPUs only: a launcher may have given this job one of several, by number or by UUID. These
    numbers are taken to be those of the driver, which holds for equal GPUs and with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    number = int(device.partition(":")[2] or 0)
    visible = visible_gpus()
    return visible[number] if number < len(visible) else str(number)  # none is known without the driver's library


@contextmanager
def _sampled(read: Callable[[], float | None]) -> Iterator[list[float]]:
    """Yield a list to which a thread appends a reading every `_PERIOD` seconds; failed ones are left out."""
    readings: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(_PERIOD):
            if (value := read()) is not None:
                readings.append(value)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
