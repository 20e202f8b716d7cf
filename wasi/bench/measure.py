"""The order of a benchmark's measurements, and the subprocess of each. Imports no torch."""

import logging
from contextlib import ExitStack
from functools import partial
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from wasi.bench.baseline import identity
from wasi.bench.children import Child, ChildFailed
from wasi.bench.measurement import INFERENCE, TRAIN, Measurement, Side
from wasi.bench.resident import resident_memory
from wasi.measure import rss
from wasi.measure.contention import BUSY
from wasi.measure.power import power_meter
from wasi.measure.telemetry import snapshot

log = logging.getLogger(__name__)

_BREAKDOWN_MS = 3000.0  # steps of the breakdown take about this long in all
_POWER_SECONDS = 5.0  # of steps, and again of inference passes, over which power is averaged
_REQUESTS = {TRAIN: "time_train", INFERENCE: "time_inference"}

# Memory, FLOPs and breakdown by `identity`: measured once per configuration in the lifetime of this process.
_known: dict[str, dict] = {}

Timed = tuple[str, Side, Child]  # "ours" (the configuration) or "baseline", its measurement, its process


class Bench:
    """Runs the measurements of one job and adds each to `result` as soon as it is there.

    Args:
        cfg: the job's configuration.
        result: filled in by `run`; holds the configurations to measure.
        log_file: receives the output of the measuring processes.
        start: makes a measuring process, with the arguments of `Child`.
    """

    def __init__(self, cfg: DictConfig, result: Measurement, log_file: Path, start=Child):
        self._cfg, self.result = cfg, result
        self._start = partial(start, log=log_file)
        self._threads: int | None = cfg.device.num_threads

    def run(self) -> None:
        """Measure memory and then times in alternating turns, `bench.runs` times with new processes.

        FLOPs, breakdown and power are measured in the first of these runs, data loading (`bench.data`) at the end. All
        that concerns training comes before inference, which changes the allocator's settings (`Work.time_inference`).

        Raises:
            ChildFailed: a measuring process failed, or the configuration exceeds `device.memory_limit_mib`.
        """
        self._look()
        for number in range(self._cfg.bench.runs):
            with ExitStack() as stack:
                pairs = self._started(stack)
                release = self._short_of_memory(pairs)
                for kind in _REQUESTS:
                    self._rounds(kind, pairs, release)
                    if number == 0 and kind == TRAIN:
                        self._count_and_divide(pairs)
                    if number == 0:
                        self._power(kind, pairs)
                self._record_contention(pairs)
        if self._cfg.bench.data:
            self._loading()
        self._look()

    def _started(self, stack: ExitStack) -> list[Timed]:
        """Start the processes, measure their memory and return those to time, with their models built.

        A baseline that exceeds `device.memory_limit_mib` is left out.
        """
        ours, base = self.result.ours, self.result.baseline
        child = stack.enter_context(self._child())
        self._record_process(child.ask("load", config=ours.config))
        other = None
        if base is not None and self._fits(base):
            other = stack.enter_context(self._child("baseline"))
            other.ask("load", config=base.config)  # not at once: they would slow each other down
        self._memory("ours", ours, child)
        self._refuse_if_too_large()
        pairs = [("ours", ours, child)]
        if base is not None and other is not None:
            self._memory("baseline", base, other)
            if self._fits(base):
                pairs.append(("baseline", base, other))
            else:
                other.close()
        return pairs

    def _memory(self, who: str, side: Side, child: Child) -> None:
        """Build the model in a new process that has loaded its data, and measure resident memory and live tensors.

        A configuration that was measured before gets those numbers again.
        """
        known = _known.setdefault(identity(side.config), {})
        if "memory" in known:
            child.ask("build")
        else:
            log.info("%s: memory", who)
            side.counted |= resident_memory(child)
            known["memory"] = {**side.counted, **self._turn(child, "live_peaks")}
        side.counted |= known["memory"]

    def _turn(self, child: Child, do: str, release: bool = False, **arguments):
        """Return `child.ask(do, ...)`; if `release`, or on a GPU that two share, it then gives freed memory back."""
        found = child.ask(do, **arguments)
        self._end_turn(child, release)
        return found

    def _end_turn(self, child: Child, release: bool = False) -> None:
        """Let a process give freed memory back, of a GPU because the other process cannot use what one keeps there."""
        if release or (self.result.baseline is not None and self.result.process["device"].startswith("cuda")):
            child.ask("release")

    def _refuse_if_too_large(self) -> None:
        total = self.result.ours.counted["memory/process_rss_peak_mib"]
        if line := rss.over_limit(total, self._cfg.device.memory_limit_mib):
            raise ChildFailed("failed", line)

    def _fits(self, side: Side) -> bool:
        """Return whether the baseline fits in `device.memory_limit_mib`, judged by its memory if measured already."""
        side.counted |= _known.get(identity(side.config), {}).get("memory", {})
        total = side.counted.get("memory/process_rss_peak_mib", 0.0)
        line = rss.over_limit(total, self._cfg.device.memory_limit_mib)
        if line:
            self._remark(f"the baseline is not timed, as it would not fit: {line}")
        return line is None

    def _short_of_memory(self, pairs: list[Timed]) -> bool:
        """Return whether the machine lacks memory for all processes to keep freed memory between their turns.

        If so, they release it now.
        """
        held = sum(child.ask("resident") for _, _, child in pairs)
        wanted = sum(side.counted["memory/process_rss_peak_mib"] for _, side, _ in pairs)
        short = len(pairs) > 1 and wanted - held > rss.available_mib()
        if short:
            for _, _, child in pairs:
                child.ask("release")
            self._remark("freed memory is given back after each turn, as both processes would not fit with it")
        return short

    def _rounds(self, kind: str, pairs: list[Timed], release: bool) -> None:
        """Time training steps or inference in `bench.rounds` rounds; the order of the two sides alternates.

        Args:
            kind: `TRAIN` or `INFERENCE`.
            release: whether a process gives freed memory back after each turn.
        """
        bench = self._cfg.bench
        turn = {"min_count": ceil(bench.min_count / bench.rounds), "min_seconds": bench.min_seconds / bench.rounds}
        for number in range(bench.rounds):
            for _, side, child in pairs if number % 2 == 0 else pairs[::-1]:
                warmup = 0 if number else bench.warmup
                side.rounds[kind].append(self._turn(child, _REQUESTS[kind], release, warmup=warmup, **turn))
            self._look()
            if kind == TRAIN:
                medians = ", ".join(f"{who} {side.metrics()[f'{TRAIN}_p50']:.1f} ms" for who, side, _ in pairs)
                log.info("round %d/%d: %s per step", number + 1, bench.rounds, medians)

    def _record_contention(self, pairs: list[Timed]) -> None:
        """Record the largest share of time that a process's threads waited for a CPU, and remark on a busy machine."""
        known = [share for _, _, child in pairs if (share := child.ask("waited")) is not None]
        if known:
            most = max(*known, self.result.process.get("cpu_wait_share", 0.0))
            self.result.process["cpu_wait_share"] = most
            if most >= BUSY:
                self._remark(f"busy machine: in timed calls, threads waited {most:.0%} of the time for a processor")

    def _count_and_divide(self, pairs: list[Timed]) -> None:
        """Measure FLOPs and other counts, and the breakdown of a step, each in a separate pass.

        The ranks of each layer are recorded, too.
        """
        for _, side, child in pairs:
            known = _known[identity(side.config)]
            p50 = side.metrics()[f"{TRAIN}_p50"]
            if "counted" not in known:
                side.counted |= (counted := self._turn(child, "count"))
                parts = self._turn(child, "breakdown", count=min(10, max(1, int(_BREAKDOWN_MS / p50))))
                known |= {"counted": counted, "breakdown": parts, "layers": child.ask("layers")}
            side.counted |= known["counted"]
            side.breakdown, side.layers = known["breakdown"], known["layers"]

    def _loading(self) -> None:
        """Measure the throughput of data loading in a process that does nothing else."""
        bench, ours = self._cfg.bench, self.result.ours
        turn = {"warmup": bench.warmup, "min_count": bench.min_count, "min_seconds": bench.min_seconds}
        with self._child() as child:
            ours.counted |= child.ask("loading", config=ours.config, **turn)

    def _power(self, kind: str, pairs: list[Timed]) -> None:
        """Measure the watts of training steps or of inference passes, where there is a power meter."""
        meter = power_meter(self.result.process["device"])
        if meter is None:
            return
        self.result.process["power"] = meter.source
        name = "train" if kind == TRAIN else "inference"
        for _, side, child in pairs:
            with meter.running() as used:
                child.ask(_REQUESTS[kind], warmup=0, min_count=2, min_seconds=_POWER_SECONDS)
            self._end_turn(child)
            if used.watts is not None:
                side.counted[f"power/{name}_watts"] = used.watts

    def _child(self, role: str = "") -> Child:
        """Start a measuring process, whose errors begin with `role` if that is not empty."""
        return self._start(role, environment=rss.child_environment(self._threads))

    def _record_process(self, description: dict) -> None:
        """Record the description that `Work.load` returned; all later processes get the same number of threads."""
        self.result.process = description | self.result.process
        self._threads = self._threads or description["threads"]
        if self._cfg.device.flush_denormals and not description["denormals_flushed"]:
            self._remark("device.flush_denormals=true has no effect on this processor")

    def _remark(self, line: str) -> None:
        if line not in self.result.remarks:
            self.result.remarks.append(line)

    def _look(self) -> None:
        self.result.looks.append(snapshot())
