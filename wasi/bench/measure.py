"""The protocol: who is measured when, in which process. No torch here; the parent waits on pipes."""

import logging
from contextlib import ExitStack, contextmanager
from functools import partial
from math import ceil
from pathlib import Path

from omegaconf import DictConfig

from wasi.allocator import returning_environment
from wasi.bench.baseline import identity
from wasi.bench.children import Child, ChildFailed
from wasi.bench.measurement import INFERENCE, TRAIN, Measurement, Side
from wasi.bench.resident import resident_memory
from wasi.measure import rss
from wasi.measure.telemetry import read_power, sampled_power, snapshot

log = logging.getLogger(__name__)

_BREAKDOWN_MS = 6000.0  # time that the breakdown may take, roughly
_HOLES = 1.5  # what a process that keeps freed memory may hold, over its peak without
_REQUESTS = {TRAIN: "time_train", INFERENCE: "time_inference"}

_memory_of: dict[str, dict] = {}  # memory is measured once per configuration and command


class Bench:
    """One job's measurement; `result` holds what there is at any moment.

    Args:
        cfg: the job's configuration; log_file: receives what the measuring processes print.
        start: makes a measuring process, see `Child`.
    """

    def __init__(self, cfg: DictConfig, result: Measurement, log_file: Path, start=Child):
        self._cfg, self.result = cfg, result
        self._start = partial(start, log=log_file)
        self._threads: int | None = cfg.device.num_threads

    def run(self) -> None:
        """Memory first, one process at a time: what does not fit is not timed. Then times, in turns."""
        self._look()
        self._memory("ours", self.result.ours)
        self._refuse_if_too_large()
        timed = [("ours", self.result.ours)]
        if self.result.baseline is not None:
            self._memory("baseline", self.result.baseline)
            if self._baseline_fits():
                timed.append(("baseline", self.result.baseline))
        with ExitStack() as stack:
            children = [stack.enter_context(self._child(who)) for who, _ in timed]
            pairs = [(who, side, child) for (who, side), child in zip(timed, children, strict=True)]
            release = self._short_of_memory([side for _, side, _ in pairs])
            self._prepare(pairs)
            self._rounds(pairs, release)
            self._further(pairs)
        self._look()

    def _memory(self, who: str, side: Side) -> None:
        """Resident memory and live tensors, each in a process of its own."""
        key = identity(side.config)
        if key not in _memory_of:
            log.info("%s: memory", who)
            with self._child(who, memory=True) as first, self._child(who, memory=True) as second:
                process = _load([(first, side), (second, side)])
                side.counted |= resident_memory(first)
                first.close()
                second.ask("build")
                side.counted |= second.ask("live_peaks")
            _memory_of[key] = {"process": process, "metrics": dict(side.counted)}
        self._tell_process(_memory_of[key]["process"])
        side.counted |= _memory_of[key]["metrics"]

    def _refuse_if_too_large(self) -> None:
        total = self.result.ours.counted["memory/process_rss_peak_mib"]
        if line := rss.over_limit(total, self._cfg.device.memory_limit_mib):
            raise ChildFailed("failed", line)

    def _baseline_fits(self) -> bool:
        total = self.result.baseline.counted["memory/process_rss_peak_mib"]
        line = rss.over_limit(total, self._cfg.device.memory_limit_mib)
        if line:
            self.result.remarks.append(f"the baseline is not timed, as it would not fit: {line}")
        return line is None

    def _prepare(self, pairs: list) -> None:
        self._tell_process(_load([(child, side) for _, side, child in pairs]))
        for _, _, child in pairs:
            child.ask("build")

    def _short_of_memory(self, sides: list[Side]) -> bool:
        """Whether not all processes could keep what they have freed until their next turn."""
        wanted = _HOLES * sum(side.counted["memory/process_rss_peak_mib"] for side in sides)
        short = len(sides) > 1 and wanted > rss.available_mib()
        if short:
            line = "freed memory is given back after each turn, as both processes would not fit with it"
            self.result.remarks.append(line)
        return short

    def _rounds(self, pairs: list, release: bool) -> None:
        bench = self._cfg.bench
        turn = {"min_count": ceil(bench.min_count / bench.rounds), "min_seconds": bench.min_seconds / bench.rounds}
        for number in range(bench.rounds):
            ordered = pairs if number % 2 == 0 else pairs[::-1]
            for kind, request in _REQUESTS.items():
                for _, side, child in ordered:
                    warmup = 0 if number else bench.warmup
                    side.rounds[kind].append(child.ask(request, warmup=warmup, **turn))
                    if release:
                        child.ask("release")
            self._look()
            medians = ", ".join(f"{who} {side.metrics()[f'{TRAIN}_p50']:.1f} ms" for who, side, _ in pairs)
            log.info("round %d/%d: %s per step", number + 1, bench.rounds, medians)

    def _further(self, pairs: list) -> None:
        """Work, parts of a step and power, each by a pass of its own."""
        for _, side, child in pairs:
            side.counted |= child.ask("count")
            p50 = side.metrics()[f"{TRAIN}_p50"]
            side.breakdown = child.ask("breakdown", count=min(10, max(2, int(_BREAKDOWN_MS / p50))))
            self._power(side, child, p50)

    def _power(self, side: Side, child: Child, p50: float) -> None:
        """Watts while steps run one after another, where the machine can tell."""
        if read_power() is None:
            return
        with sampled_power() as watts:
            child.ask("time_train", warmup=0, min_count=2, min_seconds=5.0)
        if watts:
            side.counted["power/train_watts"] = sum(watts) / len(watts)
            side.counted["energy/train_step_joules"] = side.counted["power/train_watts"] * p50 / 1000

    @contextmanager
    def _child(self, who: str, memory: bool = False):
        """A fresh process; the baseline's failures say whose they are."""
        environment = rss.child_environment(self._threads or 0)
        if not self._threads:  # nothing asked for: the first process tells what the machine gives
            del environment["OMP_NUM_THREADS"]
        if not memory:  # it makes allocations slow, so times are taken without it
            environment = {k: v for k, v in environment.items() if k not in returning_environment()}
        with self._start("baseline" if who == "baseline" else "", environment=environment) as child:
            yield child

    def _tell_process(self, told: dict) -> None:
        """The number of threads found is asked for explicitly from then on."""
        self.result.process = told
        self._threads = self._threads or told["threads"]
        remark = "device.flush_denormals=true has no effect on this processor"
        if (
            self._cfg.device.flush_denormals
            and not told["denormals_flushed"]
            and remark not in self.result.remarks
        ):
            self.result.remarks.append(remark)

    def _look(self) -> None:
        self.result.looks.append(snapshot())


def _load(children: list[tuple[Child, Side]]) -> dict:
    """Libraries imported and data loaded, side by side; what the first process is like then."""
    for child, side in children:
        child.send("load", config=side.config)
    return [child.receive() for child, _ in children][0]
