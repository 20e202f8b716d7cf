"""Electric power while something runs, where the machine tells it. No torch.

- `vcgencmd pmic_read_adc`: what a Raspberry Pi 5's PMIC delivers, without its own losses and USB devices;
- RAPL (`/sys/class/powercap`): the energy that x86 processors count for their packages; for root alone by default;
- `nvidia-smi`: what the GPU draws that the work is on, for work on CUDA.
"""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from wasi.config.hardware import visible_gpus
from wasi.measure.telemetry import SYSFS, Run, run_tool

_PERIOD = 0.5  # seconds between readings of what tells watts


@dataclass
class Used:
    """watts: mean power over a block; None where nothing was told while it ran."""

    watts: float | None = None


@dataclass(frozen=True)
class Meter:
    """source: what tells. `joules` is a counter of energy used; without one, `watts` is read again and again."""

    source: str
    joules: Callable[[], float | None] | None = None
    watts: Callable[[], float | None] | None = None

    @contextmanager
    def running(self) -> Iterator[Used]:
        """`with meter.running() as used: ...`; afterwards `used.watts`."""
        used = Used()
        if self.joules is None:
            assert self.watts is not None  # a meter has one of the two
            with _sampled(self.watts) as readings:
                yield used
            used.watts = sum(readings) / len(readings) if readings else None
            return
        begin, before = time.monotonic(), self.joules()
        yield used
        after, seconds = self.joules(), time.monotonic() - begin
        if before is not None and after is not None and after >= before:  # less: the counter began again
            used.watts = (after - before) / seconds


def power_meter(device: str, run: Run = run_tool, sysfs: Path = SYSFS) -> Meter | None:
    """What tells the power of work on `device` (`cpu`, `cuda` or `cuda:0`) on this machine; None: nothing does."""
    if device.startswith("cuda"):
        command = _nvidia_smi(device)
        if parse_gpu_watts(run(command)) is None:
            return None
        return Meter("nvidia-smi power.draw", watts=lambda: parse_gpu_watts(run(command)))
    if parse_power(run(_PMIC)) is not None:
        return Meter("vcgencmd pmic_read_adc", watts=lambda: parse_power(run(_PMIC)))
    if package_joules(sysfs) is not None:
        return Meter("RAPL packages", joules=lambda: package_joules(sysfs))
    return None


def parse_power(output: str | None) -> float | None:
    """Watts from `vcgencmd pmic_read_adc`: volts times amperes, summed over the rails that tell both."""
    readings = re.findall(r"(\S+)_([AV])\s+(current|volt)\(\d+\)=(-?\d+(?:\.\d+)?)([AV])", output or "")
    amperes = {rail: float(value) for rail, _, kind, value, _ in readings if kind == "current"}
    volts = {rail: float(value) for rail, _, kind, value, _ in readings if kind == "volt"}
    both = amperes.keys() & volts.keys()
    return sum(amperes[rail] * volts[rail] for rail in both) if both else None


def parse_gpu_watts(output: str | None) -> float | None:
    """Watts from `nvidia-smi --query-gpu=power.draw`; None where it tells none.

    >>> parse_gpu_watts("61.25\\n"), parse_gpu_watts("[N/A]\\n")
    (61.25, None)
    """
    try:
        return float((output or "").splitlines()[0])
    except (IndexError, ValueError):
        return None


def package_joules(sysfs: Path = SYSFS) -> float | None:
    """Energy that all packages have used since some moment; None where it cannot be read.

    Packages are `intel-rapl:N`, on AMD too; cores and memory within them, `intel-rapl:N:M`, are not added again.
    """
    counters = [zone / "energy_uj" for zone in sysfs.glob("class/powercap/intel-rapl:*") if zone.name.count(":") == 1]
    try:
        return sum(int(counter.read_text()) for counter in counters) / 1e6 if counters else None
    except (OSError, ValueError):
        return None


_PMIC = ("vcgencmd", "pmic_read_adc")


def _nvidia_smi(device: str) -> tuple[str, ...]:
    """The command that tells the power of `device`, `cuda` being `cuda:0`.

    CUDA counts the GPUs that are visible now: a launcher may have given this job one of several, by number or by UUID.
    Numbers are taken for `nvidia-smi`'s, as they are among equal GPUs and under CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    number = int(device.partition(":")[2] or 0)
    visible = visible_gpus()
    gpu = visible[number] if number < len(visible) else str(number)  # without the driver's library none is known
    return ("nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", f"--id={gpu}")


@contextmanager
def _sampled(read: Callable[[], float | None]) -> Iterator[list[float]]:
    """A reading every half second, by a thread that sleeps between."""
    readings: list[float] = []
    stop = threading.Event()

    def sample() -> None:
        while not stop.wait(_PERIOD):
            value = read()
            if value is None:
                return
            readings.append(value)

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        stop.set()
        thread.join()
