"""The protocol with made-up processes: who is asked what, when, and what is kept if one of them dies."""

from contextlib import contextmanager

import pytest

from wasi.bench import measure
from wasi.bench.children import ChildFailed
from wasi.bench.measure import Bench
from wasi.bench.measurement import INFERENCE, TRAIN, Measurement, Side
from wasi.bench.work import Work
from wasi.measure import power
from wasi.measure.telemetry import Snapshot

PEAKS = {"baseline": 500.0, "peak": 800.0, "total": 900.0}
LIVE = {"memory/train_peak_mib": 290.0, "memory/inference_peak_mib": 90.0}
TOLD = {"threads": 3, "omp_num_threads": None, "denormals_flushed": True, "device": "cpu"}


class World:
    """Starts made-up processes and remembers everything that was asked of them, in order."""

    def __init__(self, dies_at: tuple[str, int] | None = None, peaks: dict | None = None):
        self.asked, self.environments = [], []
        self.dies_at, self.peaks = dies_at, peaks or {}
        self.alive: list[FakeChild] = []

    @contextmanager
    def start(self, role, log, environment):
        child = FakeChild(self, role)
        self.environments.append(environment)
        self.alive.append(child)
        try:
            yield child
        finally:
            child.close()

    def times(self, do):
        return [who for who, what in self.asked if what == do]


class FakeChild:
    def __init__(self, world, role):
        self.world, self.who = world, role or "ours"

    def close(self):
        if self in self.world.alive:
            self.world.alive.remove(self)

    def ask(self, do, **arguments):
        world = self.world
        world.asked.append((self.who, do))
        if world.dies_at == (do, len(world.times(do))):
            raise ChildFailed("failed", "the measuring process was killed by SIGKILL, possibly out of memory")
        answers = {
            "load": TOLD,
            "rss_peak": world.peaks.get(self.who, PEAKS),
            "live_peaks": LIVE,
            "count": {"flops/train_step": 1e9},
            "resident": 100.0,
            "breakdown": [{"decomposition": 1.0, "rest": 2.0}],
            "layers": [{"name": self.who, "weight_rank": 3}],
        }
        if do.startswith("time"):
            return [2.0 if self.who == "ours" else 4.0] * arguments["min_count"]
        return answers.get(do)


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """A machine that tells one thing, and no memory measured by an earlier test."""
    monkeypatch.setattr(measure, "snapshot", lambda: Snapshot(temperature_c=40.0))
    monkeypatch.setattr(measure, "power_meter", lambda device: None)
    monkeypatch.setattr(measure.rss, "available_mib", lambda: 1e6)
    monkeypatch.setattr(measure, "_known", {})


@pytest.fixture
def bench(compose_config, tmp_path):
    def made(world, *overrides, baseline=True):
        cfg = compose_config("bench.rounds=3", "bench.min_count=7", *overrides, config="bench")
        sides = [Side({"method": {"name": name}}) for name in ("wasi", "vanilla")]
        result = Measurement(sides[0], sides[1] if baseline else None)
        return Bench(cfg, result, tmp_path / "log", start=world.start)

    return made


def test_everything_is_measured(bench):
    world = World()
    job = bench(world)
    job.run()
    for side, ms in ((job.result.ours, 2.0), (job.result.baseline, 4.0)):
        assert side.rounds == {TRAIN: [[ms] * 3] * 3, INFERENCE: [[ms] * 3] * 3}  # 7 samples over 3 rounds
        metrics = side.metrics()
        assert metrics["memory/train_rss_peak_mib"] == 300 and metrics["memory/process_rss_peak_mib"] == 900
        assert metrics["memory/train_peak_mib"] == 290 and metrics["time/breakdown_rest_ms"] == 2
    assert job.result.content()["layers"] == [{"name": "ours", "weight_rank": 3}]
    assert job.result.content()["ratio"]["time/train_step_ms_p50"] == {"p50": 2}  # three rounds
    assert world.alive == [] and job.result.process == TOLD


def test_turns_are_swapped_in_every_other_round(bench):
    world = World()
    bench(world).run()
    assert world.times("time_train") == ["ours", "baseline", "baseline", "ours", "ours", "baseline"]
    assert world.times("time_inference") == world.times("time_train")


def test_all_that_concerns_training_comes_before_inference_which_changes_the_allocator(bench):
    world = World()
    bench(world).run()
    asked = [do for who, do in world.asked if who == "ours"]
    assert max(map(asked.index, ("time_train", "count", "breakdown"))) < asked.index("time_inference")
    assert asked[-1] == "waited"  # covers all of them


@pytest.mark.parametrize(("available", "releases"), [(1601.0, 0), (1599.0, 14)])
def test_freed_memory_is_kept_between_turns_where_all_fit(bench, monkeypatch, available, releases):
    monkeypatch.setattr(measure.rss, "available_mib", lambda: available)  # 900 MiB each are wanted, 100 are held
    world = World()
    job = bench(world)
    job.run()
    assert len(world.times("release")) == releases
    assert all(hasattr(Work, do) for _, do in world.asked)
    assert any("given back after each turn" in line for line in job.result.warnings()) == (releases > 0)


def test_on_a_gpu_a_process_keeps_nothing_beyond_its_turn(bench, monkeypatch):
    monkeypatch.setitem(TOLD, "device", "cuda:0")
    world = World()
    bench(world).run()
    takes = ("live_peaks", "time_train", "count", "breakdown", "time_inference")
    after = [then for (_, do), then in zip(world.asked, world.asked[1:], strict=False) if do in takes]
    assert [do for _, do in after] == ["release"] * 18
    assert [who for who, _ in after] == [who for who, do in world.asked if do in takes]


def test_alone_nothing_is_given_back(bench, monkeypatch):
    monkeypatch.setitem(TOLD, "device", "cuda:0")
    monkeypatch.setattr(measure.rss, "available_mib", lambda: 1.0)
    world = World()
    bench(world, baseline=False).run()
    assert world.times("release") == []


def test_memory_comes_first_in_the_process_that_is_timed(bench):
    world = World()
    bench(world).run()
    assert len(world.environments) == 2
    for who in ("ours", "baseline"):
        order = [do for asked, do in world.asked if asked == who]
        assert order[:3] == ["load", "rss_peak", "live_peaks"]


def test_every_run_starts_both_anew_and_measures_memory_once(bench):
    world = World()
    job = bench(world, "bench.runs=2")
    job.run()
    assert len(world.environments) == 4 and world.alive == []
    assert [len(world.times(do)) for do in ("rss_peak", "build", "count", "breakdown")] == [2, 2, 2, 2]
    assert len(job.result.ours.rounds[TRAIN]) == 6


def test_a_baseline_is_looked_into_once_whatever_the_ranks(bench):
    world = World()
    for epsilon in (0.4, 0.8):
        job = bench(world)
        for side, method in ((job.result.ours, "wasi"), (job.result.baseline, "vanilla")):
            side.config |= {"method": {"name": method}, "rank": {"weight_epsilon": epsilon}}
        job.result.ours.config["method"]["weight_epsilon"] = epsilon
        job.run()
        assert job.result.baseline.metrics()["flops/train_step"] == 1e9
    for do in ("rss_peak", "live_peaks", "count", "breakdown"):
        assert world.times(do) == ["ours", "baseline", "ours"]


def test_the_threads_found_are_asked_for_from_then_on(bench):
    world = World()
    bench(world, "device.num_threads=null").run()
    assert [e.get("OMP_NUM_THREADS") for e in world.environments] == [None, "3"]
    world = World()
    bench(world, "device.num_threads=2").run()
    assert {e.get("OMP_NUM_THREADS") for e in world.environments} == {"2"}


def test_memory_of_one_configuration_is_measured_once(bench):
    world = World()
    job = bench(world)
    job.result.baseline.config["method"]["name"] = "wasi"  # A/A
    job.run()
    assert world.times("rss_peak") == ["ours"]
    assert job.result.baseline.counted["memory/train_peak_mib"] == 290


def test_what_does_not_fit_is_not_timed(bench):
    world = World()
    job = bench(world, "device.memory_limit_mib=899")
    with pytest.raises(ChildFailed, match="device.memory_limit_mib=899: the process wanted 900 MiB") as caught:
        job.run()
    assert caught.value.status == "failed" and world.times("time_train") == []
    assert job.result.ours.metrics()["memory/process_rss_peak_mib"] == 900


def test_a_baseline_that_does_not_fit_leaves_ours_measured(bench):
    world = World(peaks={"baseline": {**PEAKS, "total": 5000.0}})
    job = bench(world, "device.memory_limit_mib=4096")
    job.run()
    assert set(world.times("time_train")) == {"ours"}
    assert "time/train_step_ms_p50" in job.result.ours.metrics()
    content = job.result.content()
    assert "time/train_step_ms_p50" not in content["ratio"] and "memory/train_peak_mib" in content["ratio"]
    assert "baseline is not timed" in job.result.warnings()[0] and "5000 MiB" in job.result.warnings()[0]


def test_without_a_baseline(bench):
    world = World()
    job = bench(world, baseline=False)
    job.run()
    assert {who for who, _ in world.asked} == {"ours"} and job.result.content()["ratio"] == {}


@pytest.mark.parametrize("dies_at", [("rss_peak", 1), ("time_train", 4), ("time_inference", 1), ("breakdown", 2)])
def test_a_death_keeps_what_was_measured(bench, dies_at):
    world = World(dies_at)
    job = bench(world)
    with pytest.raises(ChildFailed, match="SIGKILL"):
        job.run()
    assert world.alive == []
    timed = sum(len(rounds) for rounds in job.result.ours.rounds.values())
    assert timed == {"rss_peak": 0, "time_train": 1, "time_inference": 3, "breakdown": 3}[dies_at[0]]
    assert ("memory/train_peak_mib" in job.result.ours.counted) == (dies_at[0] != "rss_peak")


def test_power_where_the_machine_tells_it(bench, monkeypatch):
    readings = iter([0.0, 50.0] * 4)
    clock = iter([0.0, 10.0] * 4)
    monkeypatch.setattr(power.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(measure, "power_meter", lambda device: power.Meter(device, joules=lambda: next(readings)))
    job = bench(World())
    job.run()
    metrics = job.result.ours.metrics()
    assert metrics["power/train_watts"] == metrics["power/inference_watts"] == 5.0
    assert metrics["energy/train_step_joules"] == pytest.approx(5.0 * 0.002)
    assert job.result.process["power"] == "cpu"


def test_nothing_is_given_back_while_power_is_measured(bench, monkeypatch):
    monkeypatch.setitem(TOLD, "device", "cuda:0")
    world, released = World(), []

    def joules() -> float:
        released.append(sum(do == "release" for _, do in world.asked))
        return float(len(released))

    monkeypatch.setattr(measure, "power_meter", lambda device: power.Meter(device, joules=joules))
    bench(world).run()
    assert len(released) == 8 and released[::2] == released[1::2] and len(set(released)) == 4


def test_denormals_that_stay_are_told(bench, monkeypatch):
    monkeypatch.setitem(TOLD, "denormals_flushed", False)
    job = bench(World())
    job.run()
    assert sum("flush_denormals" in line for line in job.result.warnings()) == 1
