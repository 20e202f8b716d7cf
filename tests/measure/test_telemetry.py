"""Recorded outputs of vcgencmd, sysfs trees of several shapes, and machines that tell nothing."""

import pytest

from wasi.measure import telemetry
from wasi.measure.telemetry import (
    Snapshot,
    parse_clock,
    parse_temperature,
    parse_throttled,
    run_tool,
    snapshot,
    throttled_during,
    throttling_unseen,
)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{text}\n")


def tools(**answers):
    """A `run` that knows some of vcgencmd's commands."""
    return lambda command: answers.get(command[1])


def nothing(command):
    return None


@pytest.fixture
def pi5(tmp_path):
    for policy in range(1):
        write(tmp_path / f"devices/system/cpu/cpufreq/policy{policy}/scaling_governor", "ondemand")
        write(tmp_path / f"devices/system/cpu/cpufreq/policy{policy}/scaling_cur_freq", "2400000")
    write(tmp_path / "class/thermal/thermal_zone0/type", "cpu-thermal")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "51250")
    write(tmp_path / "devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "50005")
    return tmp_path


@pytest.fixture
def laptop(tmp_path):
    for cpu, (governor, khz) in enumerate(
        [("powersave", 3_100_000), ("performance", 800_000), ("powersave", 2_000_000)]
    ):
        core = tmp_path / f"devices/system/cpu/cpu{cpu}"
        write(core / "cpufreq/scaling_governor", governor)
        write(core / "cpufreq/scaling_cur_freq", khz)
        write(core / "thermal_throttle/core_throttle_count", cpu)
        write(core / "thermal_throttle/package_throttle_count", 5)
    for zone, (kind, milli) in enumerate([("acpitz", 25000), ("iwlwifi_1", 41000), ("x86_pkg_temp", 67000)]):
        write(tmp_path / f"class/thermal/thermal_zone{zone}/type", kind)
        write(tmp_path / f"class/thermal/thermal_zone{zone}/temp", milli)
    return tmp_path


def test_a_pi_with_vcgencmd(pi5):
    clock = "frequency(0)=1500019456\n"  # while the kernel still says 2400
    answers = {"get_throttled": "throttled=0x0\n", "measure_temp": "temp=48.3'C\n", "measure_clock": clock}
    look = snapshot(tools(**answers), pi5)
    assert look == Snapshot(["ondemand"], 1500.019456, 48.3, 0, None)
    assert look.known() == {
        "governors": ["ondemand"],
        "frequency_mhz": 1500.019456,
        "temperature_c": 48.3,
        "throttle_flags": 0,
    }


def test_a_pi_without_vcgencmd_tells_the_same_through_sysfs(pi5):
    assert snapshot(nothing, pi5) == Snapshot(["ondemand"], 2400.0, 51.25, 0x50005, None)


def test_an_older_pi_has_its_firmware_elsewhere(tmp_path):
    write(tmp_path / "devices/platform/soc/soc:firmware/get_throttled", "80008")
    write(tmp_path / "class/thermal/thermal_zone0/type", "cpu_thermal")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "82000")
    assert snapshot(nothing, tmp_path) == Snapshot([], None, 82.0, 0x80008, None)


def test_a_laptop(laptop):
    assert snapshot(nothing, laptop) == Snapshot(["performance", "powersave"], 2000.0, 67.0, None, 18)


def test_a_desktop_with_a_hardware_monitor_only(tmp_path):
    write(tmp_path / "class/hwmon/hwmon0/name", "nvme")
    write(tmp_path / "class/hwmon/hwmon0/temp1_input", 30000)
    write(tmp_path / "class/hwmon/hwmon1/name", "k10temp")
    write(tmp_path / "class/hwmon/hwmon1/temp1_input", 55125)
    assert snapshot(nothing, tmp_path) == Snapshot(temperature_c=55.125)


def test_broken_files_and_no_files(tmp_path):
    write(tmp_path / "class/thermal/thermal_zone0/type", "cpu-thermal")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "not a number")
    write(tmp_path / "devices/platform/soc/soc:firmware/get_throttled", "?")
    (tmp_path / "devices/system/cpu/cpufreq/policy0/scaling_governor").mkdir(parents=True)
    assert snapshot(nothing, tmp_path).known() == {}
    assert snapshot(nothing, tmp_path / "absent").known() == {}


def test_this_machine_never_fails():
    assert isinstance(snapshot(), Snapshot)


@pytest.mark.parametrize(
    ("output", "flags"),
    [
        ("throttled=0x0\n", 0),
        ("throttled=0x50005\n", 0x50005),
        ("throttled=0xE0000\n", 0xE0000),
        ('error=1 error_msg="Command not registered"\n', None),
        ("VCHI initialization failed\n", None),
        ("", None),
        (None, None),
    ],
)
def test_throttle_flags(output, flags):
    assert parse_throttled(output) == flags


@pytest.mark.parametrize(
    ("output", "degrees"), [("temp=85.0'C", 85.0), ("temp=-3.5'C\n", -3.5), ("temp=", None), (None, None)]
)
def test_temperature(output, degrees):
    assert parse_temperature(output) == degrees


def flags(*values):
    return [Snapshot(throttle_flags=value) for value in values]


@pytest.mark.parametrize(
    ("values", "printed"),
    [
        ((0x0, 0x0), None),
        ((0x50000, 0x50000), None),  # it throttled earlier, since boot
        ((0x0, 0x40000), "throttled"),  # a new sticky bit: it throttled between two looks
        ((0x50000, 0xD0000), "soft temperature limit"),
        ((0x4, 0x40000), "throttled"),  # held at the beginning
        ((0x50000, 0x50005), "under-voltage, throttled"),  # holds at the end
        ((0x20000, 0x20002, 0x20000), "frequency capped"),  # sticky long since, but seen in the middle
        ((0x10, 0x30), None),  # bits without this meaning
    ],
)
def test_throttled_during_the_run(values, printed):
    line = throttled_during(flags(*values))
    assert (line is None) if printed is None else (f": {printed} (" in line and "\n" not in line)


def test_a_look_that_failed_does_not_hide_the_others():
    assert throttled_during([Snapshot(), *flags(0x0), Snapshot(), *flags(0x40000), Snapshot()])
    assert throttled_during([Snapshot()]) is None and throttled_during([]) is None


def test_counted_thermal_events():
    counts = [Snapshot(throttle_count=count) for count in (7, 7, 9)]
    assert throttled_during(counts[:2]) is None and "counted thermal events" in throttled_during(counts)


def test_a_tool_that_is_missing_fails_or_prints():
    assert run_tool(["no-such-tool-here"]) is None
    assert run_tool(["false"]) is None
    assert run_tool(["echo", "temp=1'C"]) == "temp=1'C\n"


def test_the_tools_are_asked_for_what_they_know(monkeypatch):
    asked = []
    monkeypatch.setattr(telemetry, "SYSFS", None)
    snapshot(lambda command: asked.append(list(command)), telemetry.Path("/nowhere"))
    assert sorted(asked) == sorted(
        [["vcgencmd", "measure_clock", "arm"], ["vcgencmd", "measure_temp"], ["vcgencmd", "get_throttled"]]
    )


# Recorded: a Pi 5 at full speed, the same throttled, a clock that does not exist, no rights, an old firmware.
@pytest.mark.parametrize(
    ("output", "mhz"),
    [
        ("frequency(0)=2400033792\n", 2400.033792),
        ("frequency(0)=1500019456\n", 1500.019456),
        ("frequency(48)=1800404352\n", 1800.404352),
        ("frequency(0)=0\n", None),
        ("Can't open device file: /dev/vcio\nTry creating a device file with: sudo mknod /dev/vcio c 100 0\n", None),
        ('error=1 error_msg="Command not registered"\n', None),
        (None, None),
    ],
)
def test_the_clock_that_the_firmware_measures(output, mhz):
    assert parse_clock(output) == mhz


@pytest.mark.parametrize(("found", "hint"), [(None, "neither vcgencmd"), ("/usr/bin/vcgencmd", "group video")])
def test_a_machine_that_does_not_tell_throttling_does_not_pass_as_one_that_did_not(found, hint, monkeypatch):
    monkeypatch.setattr(telemetry, "which", lambda tool: found)
    assert hint in throttling_unseen([Snapshot(frequency_mhz=2400.0), Snapshot()])
    assert throttling_unseen([Snapshot(), Snapshot(throttle_flags=0)]) is None
    assert throttling_unseen([Snapshot(throttle_count=0)]) is None
