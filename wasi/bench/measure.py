"""The protocol: who is measured when, in which process. No torch here; the parent waits on pipes."""

import logging
from contextlib import ExitStack, contextmanager
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

_BREAKDOWN_MS = 3000.0  # time that the breakdown may take, roughly
_POWER_SECONDS = 5.0  # of steps, and of inference passes, while the power is read
_REQUESTS = {TRAIN: "time_train", INFERENCE: "time_inference"}

_known: dict[str, dict] = {}  # by configuration, what a command measures of it once: memory, work, parts of a step

Timed = tuple[str, Side, Child]  # "ours" or "baseline", its measurement, its process


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
        """`bench.runs` times: fresh processes, their memory, and then their times in turns."""
        self._look()
        for number in range(self._cfg.bench.runs):
            with ExitStack() as stack:
                pairs = self._started(stack)
                self._rounds(pairs, self._short_of_memory(pairs))
                self._tell_contention(pairs)
                if number == 0:
                    self._further(pairs)
        if self._cfg.bench.data:
            self._loading()
        self._look()

    def _started(self, stack: ExitStack) -> list[Timed]:
        """The processes that are timed, with their models built. What does not fit is not timed."""
        ours, base = self.result.ours, self.result.baseline
        child = stack.enter_context(self._child("ours"))
        self._tell_process(child.ask("load", config=ours.config))
        other = None
        if base is not None and self._fits(base):
            other = stack.enter_context(self._child("baseline"))
            other.ask("load", config=base.config)  # not meanwhile: threads of two processes wait for each other
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
        """Resident memory, then live tensors, of a fresh process that has loaded its data; builds its model."""
        known = _known.setdefault(identity(side.config), {})
        if "memory" in known:
            child.ask("build")
        else:
            log.info("%s: memory", who)
            side.counted |= resident_memory(child)
            known["memory"] = {**side.counted, **child.ask("live_peaks")}
        side.counted |= known["memory"]

    def _refuse_if_too_large(self) -> None:
        total = self.result.ours.counted["memory/process_rss_peak_mib"]
        if line := rss.over_limit(total, self._cfg.device.memory_limit_mib):
            raise ChildFailed("failed", line)

    def _fits(self, side: Side) -> bool:
        """Whether the baseline does, as far as is known so far."""
        side.counted |= _known.get(identity(side.config), {}).get("memory", {})
        total = side.counted.get("memory/process_rss_peak_mib", 0.0)
        line = rss.over_limit(total, self._cfg.device.memory_limit_mib)
        if line:
            self._remark(f"the baseline is not timed, as it would not fit: {line}")
        return line is None

    def _short_of_memory(self, pairs: list[Timed]) -> bool:
        """Whether not all processes could keep what they have freed until their next turn."""
        held = sum(child.ask("resident") for _, _, child in pairs)
        wanted = sum(side.counted["memory/process_rss_peak_mib"] for _, side, _ in pairs)
        short = len(pairs) > 1 and wanted - held > rss.available_mib()
        if short:
            for _, _, child in pairs:
                child.ask("release")
            self._remark("freed memory is given back after each turn, as both processes would not fit with it")
        return short

    def _rounds(self, pairs: list[Timed], release: bool) -> None:
        bench = self._cfg.bench
        turn = {"min_count": ceil(bench.min_count / bench.rounds), "min_seconds": bench.min_seconds / bench.rounds}
        for kind, request in _REQUESTS.items():  # all steps first: inference changes what becomes of freed memory
            for number in range(bench.rounds):
                for _, side, child in pairs if number % 2 == 0 else pairs[::-1]:
                    warmup = 0 if number else bench.warmup
                    side.rounds[kind].append(child.ask(request, warmup=warmup, **turn))
                    if release:
                        child.ask("release")
                self._look()
                if kind == TRAIN:
                    medians = ", ".join(f"{who} {side.metrics()[f'{TRAIN}_p50']:.1f} ms" for who, side, _ in pairs)
                    log.info("round %d/%d: %s per step", number + 1, bench.rounds, medians)

    def _tell_contention(self, pairs: list[Timed]) -> None:
        """The larger of the shares of time that the processes waited for a processor."""
        known = [share for _, _, child in pairs if (share := child.ask("waited")) is not None]
        if known:
            most = max(*known, self.result.process.get("cpu_wait_share", 0.0))
            self.result.process["cpu_wait_share"] = most
            if most >= BUSY:
                self._remark(f"busy machine: in timed calls, threads waited {most:.0%} of the time for a processor")

    def _further(self, pairs: list[Timed]) -> None:
        """Work, parts of a step and power, each by a pass of its own."""
        for _, side, child in pairs:
            known = _known[identity(side.config)]
            p50 = side.metrics()[f"{TRAIN}_p50"]
            if "counted" not in known:
                side.counted |= (counted := child.ask("count"))
                parts = child.ask("breakdown", count=min(10, max(1, int(_BREAKDOWN_MS / p50))))
                known |= {"counted": counted, "breakdown": parts}
            side.counted |= known["counted"]
            side.breakdown = known["breakdown"]
            self._power(side, child)

    def _loading(self) -> None:
        """Loading alone, in a process that does nothing else."""
        bench, ours = self._cfg.bench, self.result.ours
        turn = {"warmup": bench.warmup or 1, "min_count": bench.min_count, "min_seconds": bench.min_seconds}
        with self._child("ours") as child:
            ours.counted |= child.ask("loading", config=ours.config, **turn)

    def _power(self, side: Side, child: Child) -> None:
        """Watts, and joules of a step and of an inference pass, where the machine can tell."""
        meter = power_meter(self.result.process["device"])
        if meter is None:
            return
        self.result.process["power"] = meter.source
        for kind, request, name in ((TRAIN, "time_train", "train"), (INFERENCE, "time_inference", "inference")):
            with meter.running() as used:
                child.ask(request, warmup=0, min_count=2, min_seconds=_POWER_SECONDS)
            if used.watts is not None:
                side.counted[f"power/{name}_watts"] = used.watts
                unit = "train_step" if kind == TRAIN else "inference"
                side.counted[f"energy/{unit}_joules"] = used.watts * side.metrics()[f"{kind}_p50"] / 1000

    @contextmanager
    def _child(self, who: str):
        """A fresh process; the baseline's failures say whose they are."""
        environment = rss.child_environment(self._threads)
        with self._start("baseline" if who == "baseline" else "", environment=environment) as child:
            yield child

    def _tell_process(self, told: dict) -> None:
        """The number of threads found is asked for explicitly from then on."""
        self.result.process = told | self.result.process
        self._threads = self._threads or told["threads"]
        if self._cfg.device.flush_denormals and not told["denormals_flushed"]:
            self._remark("device.flush_denormals=true has no effect on this processor")

    def _remark(self, line: str) -> None:
        if line not in self.result.remarks:
            self.result.remarks.append(line)

    def _look(self) -> None:
        self.result.looks.append(snapshot())
