"""Kept results as the rows of a document's table.

Runs are grouped and compared as in reports (`wasi.report.groups`). What differs is what a document needs: rows go by
the names under which results were kept, one row to a name; nothing of several commits, tasks or machines is put side
by side; and costs are those of benchmarks alone.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from wasi.config.declared import reference
from wasi.config.relevance import lean_defaults
from wasi.errors import UserError
from wasi.measure.contention import BUSY
from wasi.report.columns import PEAK, STEP, TEST, VALIDATION, Cost
from wasi.report.groups import Group, unlike, with_equal_options
from wasi.report.kept import BENCH, RUN
from wasi.report.load import Run
from wasi.report.options import row_name, select
from wasi.report.origins import waited
from wasi.report.pareto import on_front
from wasi.report.statistics import Paired
from wasi.results.kept_result import SHARED

_DEVICE = "device.name"  # a row may be trained on one kind of device and benchmarked on another
_MEMORY_POLICY = {"train.memory", "train.step_in_backward"} | {f"train.{key}" for key in lean_defaults(None, "cpu")}


@dataclass(frozen=True)
class Row:
    """One configuration: its runs, which differ by seed, and its benchmark where there is one.

    trained_as: a row that differs by memory policy alone and has runs, where this one has none of its own. Its
        accuracy is not taken for this one's: lean steps round what passes between blocks (`train.storage`).
    """

    name: str
    group: Group
    trained_as: str | None = None

    @property
    def is_lean(self) -> bool:
        return self.group.options.get("train.memory") == "lean"

    @property
    def base(self) -> str | None:
        """The number format of frozen weights, where it is not the model's own."""
        return self.group.options.get("method.base")

    @property
    def accuracies(self) -> list[float]:
        """One per seed, as fractions; none where the row was not trained."""
        return self.group.values(self.group.accuracy)

    @property
    def mean(self) -> float | None:
        return self.group.mean(self.group.accuracy)

    def ratio(self, cost: Cost) -> float | None:
        """Baseline / this, both measured in turns; above 1 is better. The baseline's own is near 1."""
        found = self.group.in_turns(cost)
        return None if found is None else found["p50"]

    def measured(self, cost: Cost) -> float | None:
        """By the benchmark; what runs measure of themselves, beside other work, is in no document."""
        return None if self.group.bench is None else self.group.bench.metrics.get(cost.metric)

    @cached_property
    def point(self) -> tuple[float, float, float] | None:
        """Accuracy, speed of a step and minus the peak of live tensors; None where one is missing."""
        accuracy, speed, peak = self.mean, self.ratio(STEP), self.measured(PEAK)
        return None if accuracy is None or speed is None or peak is None else (accuracy, speed, -peak)

    def differs_by_memory_policy_only(self, other: "Row") -> bool:
        return unlike(self.group, other.group) <= _MEMORY_POLICY


@dataclass(frozen=True)
class Table:
    """Rows of one table, in its order, and all results that they are made of."""

    rows: list[Row]
    baseline: Row | None
    runs: list[Run]

    def difference(self, row: Row) -> Paired | None:
        """Accuracy minus the baseline's, over equal seeds; None for the baseline itself."""
        return None if self.baseline is None or row is self.baseline else row.group.minus(self.baseline.group)

    @cached_property
    def front(self) -> set[str]:
        """Names of the rows that no other beats in accuracy, time and memory together."""
        marks = on_front([row.point for row in self.rows])
        return {row.name for row, marked in zip(self.rows, marks, strict=True) if marked}


def table_of(name: str, runs: list[Run]) -> Table:
    """Kept results as the rows of one table, with their baseline.

    Args:
        name: the table's, for what is refused.

    Raises:
        UserError: the results are not of one clean commit, one kind of device and one task, the benchmarks not of one
            machine that had nothing else to do, or those of a row not of one configuration.
    """
    refuse_mixtures(name, runs)
    trained = [run for run in runs if not run.is_bench]
    accuracy = TEST if trained and all(TEST in run.metrics for run in trained) else VALIDATION
    rows = [_row(name, row, groups, accuracy) for row, groups in by_row(runs).items()]
    bases = {base for run in runs if run.is_bench and (base := baseline_name(run))}
    if len(bases) > 1:
        raise UserError("table", name, f"benchmarks against one baseline, not {', '.join(sorted(bases))}")
    references = [row.name for row in rows if row.group.method == reference()]
    base = bases.pop() if bases else references[0] if len(references) == 1 else reference()
    baseline = next((row for row in rows if row.name == base), None)
    rows = sorted((_pointing_to_runs(row, rows) for row in rows), key=lambda row: _place(row, baseline))
    return Table(rows, baseline, runs)


def by_row(runs: Iterable[Run]) -> dict[str, list[Group]]:
    """Row's name -> its runs and benchmarks, those with equal options as one group.

    By name first, and not by options as in a report: two rows may have the same options under two names, and a row of
    two configurations has to be refused.
    """
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[row_name(run.config)].append(run)
    return {name: with_equal_options(named, without=(_DEVICE,)) for name, named in found.items()}


def baseline_name(bench: Run) -> str | None:
    """Of the row that a benchmark was measured beside."""
    beside = bench.baseline
    return select(bench.config, "bench.baseline_recipe") if beside is None else row_name(beside.config)


def _row(table: str, name: str, groups: list[Group], accuracy: str) -> Row:
    group = groups[0]
    benches = [run for run in group.runs if run.is_bench]
    seeds = [run.config["seed"] for run in group.trained]
    if len(groups) > 1 or len(set(seeds)) < len(seeds) or len(benches) > 1:
        raise UserError("table", table, f"one configuration in row {name}, with each seed and one benchmark once")
    bench = benches[0] if benches else None
    return Row(name, replace(group, runs=group.trained or group.runs, accuracy=accuracy, bench=bench))


def _pointing_to_runs(row: Row, rows: list[Row]) -> Row:
    """The row itself or, where it was not trained, with the name of one that was under another memory policy."""
    twins = [other for other in rows if other.accuracies and other.differs_by_memory_policy_only(row)]
    if row.accuracies or not twins:
        return row
    return replace(row, trained_as=twins[0].name)


def refuse_mixtures(table: str, runs: list[Run]) -> None:
    """Raise UserError for results that cannot stand in one table.

    They are of one clean commit, one kind of device (cpu, cuda) and one torch version per kind of result, and one task.
    Benchmarks are of one processor, GPU and number of threads, and of times that no other processes have spoilt.
    Accuracies may come from several processors, GPUs and numbers of threads, which `wasi.results.table.source` names: a
    processor rounds as it likes, and what that changes is no more than what another seed does.
    """

    def several(values: list, what: str) -> None:
        different = list(dict.fromkeys(map(str, values)))
        if len(different) > 1:
            raise UserError("table", table, f"results of one {what}, not {' and '.join(different)}")

    several([(run.provenance.get("git_commit") or "none")[:10] for run in runs], "commit")
    dirty = next((run for run in runs if run.provenance.get("git_dirty", True)), None)
    if dirty is not None:
        which = f"{row_name(dirty.config)}, seed {dirty.config['seed']}"
        raise UserError("table", table, f"results of committed code; {which} is of a dirty tree")
    benches = [run for run in runs if run.is_bench]
    for kind, found in ((RUN, [run for run in runs if not run.is_bench]), (BENCH, benches)):
        several([run.provenance.get("device", "cpu") for run in found], f"device ({kind})")
        several([select(run.provenance, "versions.torch") for run in found], f"torch version ({kind})")
    for key, what in (("machine.processor", "processor"), ("cuda", "GPU"), ("threads.torch", "number of threads")):
        several([select(run.provenance, key) for run in benches], f"{what} ({BENCH})")
    for run in benches:
        if waited(run) >= BUSY:
            told = f"threads of {row_name(run.config)} waited {waited(run):.0%} of their time for a processor"
            raise UserError("table", table, f"benchmarks of a machine that has nothing else to do; {told}")
    for key in SHARED:
        several([select(run.config, key) for run in runs], key)


def _place(row: Row, baseline: Row | None) -> tuple:
    """The baseline first, then method by method, larger thresholds first, a lean row after its plain one."""
    method, threshold = row.group.method, -float(row.group.options.get("method.weight_epsilon") or 0)
    return row is not baseline, baseline is None or method != baseline.group.method, method, threshold, row.name
