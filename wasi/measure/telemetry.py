"""The state of the machine during a measurement: CPU governor, frequency, temperature, throttling.

It is read from `vcgencmd` (Raspberry Pi) and sysfs (Linux); what a machine does not report is absent, never an error.
Importing this does not import torch.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from shutil import which
from statistics import median

SYSFS = Path("/sys")

# Bits of `get_throttled` for the current state; the same bits plus 16 say whether it ever occurred since boot.
THROTTLE_BITS = {0: "under-voltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}
_NOW = 0x0000F
_SINCE_BOOT = 0xF0000

_CPU_SENSORS = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc_thermal", "soc-thermal", "cpu")
_CPU_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal")

Run = Callable[[Sequence[str]], str | None]


def run_tool(command: Sequence[str]) -> str | None:
    """Return the output of a command, or None if it is missing, fails or takes longer than 5 seconds."""
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None


@dataclass(frozen=True)
class Snapshot:
    """The state of the machine at one moment; what it does not report is None or empty.

    Args:
        governors: the distinct frequency governors of all cores.
        frequency_mhz: the current frequency; from sysfs, the median over cpufreq policies. A Raspberry Pi's sysfs
            gives the requested frequency, throttled or not (raspberrypi/linux#2986), and its firmware the true one.
        temperature_c: of the CPU.
        throttle_flags: bits of `get_throttled`, see `THROTTLE_BITS`.
        throttle_count: throttling events counted by x86 cores since boot.
    """

    governors: list[str] = field(default_factory=list)
    frequency_mhz: float | None = None
    temperature_c: float | None = None
    throttle_flags: int | None = None
    throttle_count: int | None = None

    def known(self) -> dict:
        """Return the known fields, as JSON content."""
        return {key: value for key, value in asdict(self).items() if value not in (None, [])}


def snapshot(run: Run = run_tool, sysfs: Path = SYSFS) -> Snapshot:
    """Return the current state of the machine, by a few file reads and at most three short subprocesses."""
    policies = _policies(sysfs)
    frequencies = [khz for p in policies if (khz := _number(p / "scaling_cur_freq")) is not None]
    return Snapshot(
        governors=sorted({text for p in policies if (text := _text(p / "scaling_governor"))}),
        frequency_mhz=_first(
            parse_clock(run(["vcgencmd", "measure_clock", "arm"])), median(frequencies) / 1000 if frequencies else None
        ),
        temperature_c=_first(parse_temperature(run(["vcgencmd", "measure_temp"])), _sysfs_temperature(sysfs)),
        throttle_flags=_first(parse_throttled(run(["vcgencmd", "get_throttled"])), _sysfs_throttled(sysfs)),
        throttle_count=_throttle_count(sysfs),
    )


def throttled_during(snapshots: Sequence[Snapshot]) -> str | None:
    """Return, in one line, why a run with these snapshots, in order of time, counts as throttled; else None.

    It counts if a flag of the current state is set in any snapshot, a flag "since boot" is set in the last but not in
    the first one, or the number of throttling events has grown.
    """
    flags = [s.throttle_flags for s in snapshots if s.throttle_flags is not None]
    if flags:
        fresh = (flags[-1] & ~flags[0] & _SINCE_BOOT) >> 16
        for look in flags:
            fresh |= look & _NOW
        if fresh:
            names = [name for bit, name in THROTTLE_BITS.items() if fresh >> bit & 1]
            return f"the device throttled during the run: {', '.join(names)} (get_throttled {flags[-1]:#x})"
    counts = [s.throttle_count for s in snapshots if s.throttle_count is not None]
    if counts and counts[-1] > counts[0]:
        return "the device throttled during the run: its cores have counted thermal events"
    return None


def throttling_unseen(snapshots: Sequence[Snapshot]) -> str | None:
    """Return, in one line, why no snapshot shows whether the device throttled; None if one does."""
    if any(look.throttle_flags is not None or look.throttle_count is not None for look in snapshots):
        return None
    line = "whether the device throttled could not be seen"
    if which("vcgencmd") is None:
        return f"{line}: this machine has neither vcgencmd nor counters of thermal events"
    return f"{line}: vcgencmd get_throttled fails; reading /dev/vcio takes group video (sudo usermod -aG video $USER)"


def parse_clock(output: str | None) -> float | None:
    """Return MHz from `vcgencmd measure_clock`, or None for its 0, which means an unknown clock.

    >>> parse_clock("frequency(0)=1800404352\\n")
    1800.404352
    """
    found = re.search(r"frequency\(\d+\)=(\d+)", output or "")
    return int(found[1]) / 1e6 if found and int(found[1]) else None


def parse_throttled(output: str | None) -> int | None:
    """Return the flags printed by `vcgencmd get_throttled`, see `THROTTLE_BITS`.

    >>> hex(parse_throttled("throttled=0x50005\\n"))
    '0x50005'
    """
    found = re.search(r"throttled=(0x[0-9a-fA-F]+)", output or "")
    return int(found[1], 16) if found else None


def parse_temperature(output: str | None) -> float | None:
    """Return degrees Celsius from `vcgencmd measure_temp`.

    >>> parse_temperature("temp=48.3'C\\n")
    48.3
    """
    found = re.search(r"temp=(-?\d+(?:\.\d+)?)", output or "")
    return float(found[1]) if found else None


def _policies(sysfs: Path) -> list[Path]:
    cpu = sysfs / "devices/system/cpu"
    return sorted(cpu.glob("cpufreq/policy*")) or sorted(cpu.glob("cpu[0-9]*/cpufreq"))


def _sysfs_temperature(sysfs: Path) -> float | None:
    """Return degrees Celsius from the first known CPU thermal zone or, without one, CPU hardware monitor."""
    zones = {_text(zone / "type"): zone / "temp" for zone in sorted(sysfs.glob("class/thermal/thermal_zone*"))}
    chips = {_text(chip / "name"): chip / "temp1_input" for chip in sorted(sysfs.glob("class/hwmon/hwmon*"))}
    for known, files in ((_CPU_SENSORS, zones), (_CPU_CHIPS, chips)):
        for name in known:
            milli = _number(files[name]) if name in files else None
            if milli is not None:
                return milli / 1000
    return None


def _sysfs_throttled(sysfs: Path) -> int | None:
    """Return the flags of `get_throttled` from the firmware driver's file, which holds them as a hexadecimal number."""
    for pattern in ("devices/platform/soc*/*firmware*/get_throttled", "devices/platform/*firmware*/get_throttled"):
        for path in sorted(sysfs.glob(pattern)):
            try:
                return int(_text(path) or "", 16)
            except ValueError:
                continue
    return None


def _throttle_count(sysfs: Path) -> int | None:
    """Return the sum of all cores' counts of thermal throttling events since boot.

    A package's count is repeated on each of its cores, so only whether the sum grows is meaningful.
    """
    cores = sysfs.glob("devices/system/cpu/cpu[0-9]*/thermal_throttle")
    counts = [
        int(count)
        for core in cores
        for name in ("core_throttle_count", "package_throttle_count")
        if (count := _number(core / name)) is not None
    ]
    return sum(counts) if counts else None


def _first(*values):
    return next((value for value in values if value is not None), None)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _number(path: Path) -> float | None:
    try:
        return float(_text(path) or "")
    except ValueError:
        return None
