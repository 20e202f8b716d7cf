"""Power: what real tools print, energy counters, and means over a block."""

import threading

import pytest

from wasi.config import hardware
from wasi.measure import power
from wasi.measure.power import Meter, package_joules, parse_gpu_watts, parse_power, power_meter

# vcgencmd pmic_read_adc of a Pi 5 (shortened to a few rails of every kind).
PMIC = """\
   3V7_WL_SW_A current(0)=0.07024320A
     3V3_SYS_A current(1)=0.05660880A
    DDR_VDDQ_A current(4)=0.00000000A
    VDD_CORE_A current(7)=0.97056000A
   3V7_WL_SW_V volt(8)=3.72219200V
     3V3_SYS_V volt(9)=3.31434000V
    DDR_VDDQ_V volt(12)=0.61084800V
    VDD_CORE_V volt(15)=0.72073300V
       EXT5V_V volt(24)=5.07592000V
        BATT_V volt(25)=0.00586080V
"""


def tools(**answers):
    """A `run` that knows some of vcgencmd's commands."""
    return lambda command: answers.get(command[1])


def test_power_is_summed_over_rails_that_tell_both():
    by_hand = 0.07024320 * 3.72219200 + 0.05660880 * 3.31434000 + 0 + 0.97056000 * 0.72073300
    assert parse_power(PMIC) == pytest.approx(by_hand)
    assert (
        parse_power("EXT5V_V volt(24)=5.07V\n") is None and parse_power("") is None and parse_power(None) is None
    )


class Nvml:
    """NVIDIA's library on a machine of two GPUs, of which the second has no energy counter."""

    consumed = 0
    nvmlInit_v2 = nvmlShutdown = lambda self: 0

    def __init__(self, name):
        assert name == "libnvidia-ml.so.1"

    def nvmlDeviceGetCount_v2(self, count):
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number, device):
        device._obj.value = number.value + 1
        return 0 if number.value < 2 else 2

    def nvmlDeviceGetHandleByUUID(self, uuid, device):
        device._obj.value = 1
        return 0 if uuid == b"GPU-5fd4" else 6

    def nvmlDeviceGetTotalEnergyConsumption(self, device, millijoules):
        Nvml.consumed += 61250
        millijoules._obj.value = Nvml.consumed
        return {1: 0, 2: 3}[device.value]


@pytest.fixture(autouse=True)
def no_driver(monkeypatch):
    """Also where there is one."""

    def missing(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(hardware.ctypes, "CDLL", missing)


@pytest.fixture
def packages(tmp_path):
    zones = (
        ("intel-rapl:0", "package-0", 5_000_000), ("intel-rapl:1", "package-1", 2_000_000),
        ("intel-rapl:2", "psys", 9_000_000), ("intel-rapl:0:0", "core", 900_000),
    )  # fmt: skip
    for zone, name, microjoules in zones:
        folder = tmp_path / "class/powercap" / zone
        folder.mkdir(parents=True)
        (folder / "energy_uj").write_text(f"{microjoules}\n")
        (folder / "name").write_text(f"{name}\n")
    return tmp_path


def test_energy_of_packages_without_what_is_within_them(packages, tmp_path):
    assert package_joules(packages) == 7.0
    (packages / "class/powercap/intel-rapl:1/energy_uj").write_text("?")
    assert package_joules(packages) is None and package_joules(tmp_path / "absent") is None


def test_the_meter_of_each_kind_of_machine(packages, tmp_path):
    nothing, pi, gpu = tools(), tools(pmic_read_adc=PMIC), lambda command: "61.25\n" if "smi" in command[0] else None
    assert power_meter("cpu", nothing, tmp_path / "absent") is None
    assert power_meter("cpu", nothing, packages).source == "RAPL packages"
    assert power_meter("cpu", pi, packages).watts() == parse_power(PMIC)
    assert power_meter("cuda:0", gpu, packages).watts() == 61.25
    assert power_meter("cuda", pi, packages) is None  # the processor's power is not the GPU's


@pytest.mark.parametrize(
    ("visible", "device", "gpu"),
    [
        (None, "cuda", "0"),
        (None, "cuda:1", "1"),
        ("3", "cuda", "3"),
        ("2,0", "cuda:1", "0"),
        ("GPU-5fd4, GPU-8932f937", "cuda:1", "GPU-8932f937"),
        ("GPU-5fd4", "cuda:0", "GPU-5fd4"),
    ],
)
def test_the_gpu_is_the_one_that_the_device_names_among_those_visible_now(monkeypatch, visible, device, gpu):
    watts = {"--id=0": "10\n", f"--id={gpu}": "61.25\n"}
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert power_meter(device, lambda command: watts.get(command[-1])).watts() == 61.25


@pytest.mark.parametrize(
    ("visible", "device", "counts"),
    [
        (None, "cuda", True), (None, "cuda:1", False), ("1,0", "cuda:1", True), ("GPU-5fd4", "cuda", True),
        ("MIG-8932", "cuda", False), ("7", "cuda", False),
    ],
)  # fmt: skip
def test_a_gpus_energy_is_counted_where_it_has_a_counter(monkeypatch, visible, device, counts):
    monkeypatch.setattr(hardware.ctypes, "CDLL", Nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter, fallback = power_meter(device, lambda command: None), power_meter(device, lambda command: "7\n")
    if not counts:
        assert meter is None and fallback.watts() == 7
        return
    first = meter.joules()
    assert meter.joules() - first == 61.25 and fallback.source == meter.source == "NVML energy counter"


def test_gpu_watts():
    assert parse_gpu_watts("61.25\n") == 61.25
    assert parse_gpu_watts("[N/A]\n") is None and parse_gpu_watts("") is None and parse_gpu_watts(None) is None


def test_watts_are_the_mean_of_the_readings_that_succeed(monkeypatch):
    monkeypatch.setattr(power, "_PERIOD", 0.001)
    readings, all_read = iter([5.0, None, 6.0]), threading.Event()

    def read():
        value = next(readings, "end")
        if value == "end":
            all_read.set()
            return None
        return value

    with Meter("x", watts=read).running() as used:
        assert all_read.wait(30)
    assert used.watts == 5.5


@pytest.mark.parametrize(("after", "watts"), [(47.0, 8.0), (1.0, None), (None, None)])
def test_watts_from_a_counter(monkeypatch, after, watts):
    clock, counter = iter([10.0, 15.0]), iter([7.0, after])
    monkeypatch.setattr(power.time, "monotonic", lambda: next(clock))
    with Meter("x", joules=lambda: next(counter)).running() as used:
        pass
    assert used.watts == watts
