"""Kept results as the rows of a document's table.

Runs are grouped, compared and joined with benchmarks as in reports (`wasi.report.groups`, `wasi.report.benchmarks`),
with three differences. A row is what was kept under one name. Results of several commits, tasks or machines are
refused, where a report shows them with a remark. Times and memory are those of benchmarks alone.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from wasi.config.declared import reference
from wasi.config.files import flat, select
from wasi.config.relevance import MEMORY_POLICY
from wasi.errors import UserError
from wasi.measure.contention import BUSY
from wasi.pareto import on_front
from wasi.report.benchmarks import joined
from wasi.report.columns import PEAK, STEP, TEST, VALIDATION, Cost
from wasi.report.groups import Group, unlike, with_equal_options
from wasi.report.kept import BENCH, RUN
from wasi.report.load import Run
from wasi.report.options import result_options, row_name
from wasi.report.origins import waited
from wasi.report.statistics import Paired
from wasi.results.kept_result import OF_THE_TASK, SHARED

_DEVICE = "device.name"  # a row may be trained on one kind of device and benchmarked on another


@dataclass(frozen=True)
class Row:
    """One configuration: its runs, which differ by seed, and its benchmark if there is one.

    trained_as: for a row without runs, the name of a row that has some and differs only by how memory is saved. The
        table refers to that row's accuracy and does not copy it: `train.memory=lean` rounds what passes between blocks
        (`train.storage`).
    """

    name: str
    group: Group
    trained_as: str | None = None

    @property
    def is_lean(self) -> bool:
        return self.group.options.get("train.memory") == "lean"

    @property
    def accuracies(self) -> list[float]:
        """The accuracy of each seed as a fraction; empty for a row that was not trained or must not be quoted."""
        return self.group.values(self.group.accuracy) if self.group.is_quotable else []

    @property
    def mean(self) -> float | None:
        """The mean accuracy over seeds; None if there is none or it must not be quoted."""
        return self.group.quoted

    def ratio(self, cost: Cost) -> float | None:
        """The baseline's cost divided by this row's, measured in turns. The baseline itself has one, near 1."""
        found = self.group.in_turns(cost)
        return None if found is None else found["p50"]

    def measured(self, cost: Cost) -> float | None:
        """The cost by the benchmark. None without one: what runs measure beside other work is in no document."""
        return None if self.group.bench is None else self.group.bench.metrics.get(cost.metric)

    @cached_property
    def point(self) -> tuple[float, float, float] | None:
        """Accuracy, speed of a step relative to the baseline's, and minus the peak of live tensors in MiB.

        Larger is better for each of them. None if one was not measured.
        """
        accuracy, speed, peak = self.mean, self.ratio(STEP), self.measured(PEAK)
        return None if accuracy is None or speed is None or peak is None else (accuracy, speed, -peak)

    def differs_by_memory_only(self, other: "Row") -> bool:
        """Whether the two differ by nothing but how memory is saved."""
        return unlike(self.group, other.group) <= set(MEMORY_POLICY)


@dataclass(frozen=True)
class Table:
    """The rows of one table in order, the one that others are compared with, and the results behind them."""

    rows: list[Row]
    baseline: Row | None
    runs: list[Run]

    def difference(self, row: Row) -> Paired | None:
        """The row's accuracy minus the baseline's over the seeds that both have.

        None for the baseline itself, and for accuracies that must not be quoted.
        """
        if self.baseline is None or row is self.baseline or not row.group.is_quotable:
            return None
        return row.group.minus(self.baseline.group)

    @cached_property
    def front(self) -> set[str]:
        """The names of the rows on the Pareto front of accuracy, step time and peak memory."""
        marks = on_front([row.point for row in self.rows])
        return {row.name for row, marked in zip(self.rows, marks, strict=True) if marked}


def table_of(name: str, runs: list[Run]) -> Table:
    """The table of kept results.

    Args:
        name: the table's name, for error messages.

    Raises:
        UserError: the results are not of one clean commit, one kind of device and one task; the benchmarks are not of
            one machine that had nothing else to do; or the results of a row are not of one configuration.
    """
    refuse_mixtures("table", name, runs)
    trained = [run for run in runs if not run.is_bench]
    accuracy = TEST if trained and all(TEST in run.metrics for run in trained) else VALIDATION
    rows = [_row(name, row, groups, accuracy) for row, groups in by_row(runs).items()]
    bases = {base for run in runs if run.is_bench and (base := baseline_name(run))}
    if len(bases) > 1:
        raise UserError("table", name, f"benchmarks against one baseline, not {', '.join(sorted(bases))}")
    references = [row.name for row in rows if row.group.method == reference()]
    base = bases.pop() if bases else references[0] if len(references) == 1 else reference()
    baseline = next((row for row in rows if row.name == base), None)
    rows = sorted((_pointing_to_runs(row, rows) for row in rows), key=lambda row: _sort_key(row, baseline))
    return Table(rows, baseline, runs)


def by_row(runs: Sequence[Run]) -> dict[str, list[Group]]:
    """The groups of runs and benchmarks with equal options, by the name of their row.

    Names come first, unlike in a report: two rows may have equal options, and two groups of one name must be refused.
    """
    found: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        found[row_name(run.config)].append(run)
    # Some files lack options of the task, in which `refuse_mixtures` lets no two results differ.
    without = {_DEVICE, *(key for run in runs for key in result_options(run.config) if key.startswith(OF_THE_TASK))}
    return {name: with_equal_options(named, without) for name, named in found.items()}


def baseline_name(bench: Run) -> str | None:
    """The name of the row that a benchmark was measured beside; None if it was measured alone."""
    return None if bench.baseline is None else row_name(bench.baseline.config)


def _row(table: str, name: str, groups: list[Group], accuracy: str) -> Row:
    trained = [replace(group, runs=group.trained) for group in groups if group.trained]
    measured = [(group, tuple(run for run in group.runs if run.is_bench)) for group in groups]
    group, *others = joined(trained, [replace(group, runs=benches) for group, benches in measured if benches])
    seeds = [run.config["seed"] for run in group.trained]
    if others or len(set(seeds)) < len(seeds) or not (seeds or group.bench):
        raise UserError("table", table, f"one configuration in row {name}, with each seed and one benchmark once")
    return Row(name, replace(group, accuracy=accuracy))


def _pointing_to_runs(row: Row, rows: list[Row]) -> Row:
    """The row, and if it was not trained with `trained_as`, where a row differs only by how memory is saved."""
    twins = [other for other in rows if other.accuracies and other.differs_by_memory_only(row)]
    if row.accuracies or not twins:
        return row
    return replace(row, trained_as=twins[0].name)


def refuse_mixtures(kind: str, name: str, runs: list[Run]) -> None:
    """Raise UserError, of the table or grid (`kind`) of this name, for results that cannot stand together.

    All must be of one clean commit and one task: the options of model and data that are kept, and `SHARED`. All runs
    must be of one kind of device (cpu, cuda) and one torch version, and so must all benchmarks. Benchmarks must also be
    of one processor, GPU and number of threads, and no other processes may have spoilt their times. Accuracies may come
    from several machines, which `wasi.results.table.source` names: processors round differently, which changes no more
    than another seed does.
    """

    def several(values: list, what: str) -> None:
        different = list(dict.fromkeys(map(str, values)))
        if len(different) > 1:
            raise UserError(kind, name, f"results of one {what}, not {' and '.join(different)}")

    several([(run.provenance.get("git_commit") or "none")[:10] for run in runs], "commit")
    dirty = next((run for run in runs if run.provenance.get("git_dirty", True)), None)
    if dirty is not None:
        which = f"{row_name(dirty.config)}, seed {dirty.config['seed']}"
        raise UserError(kind, name, f"results of committed code; {which} is of a dirty tree")
    benches = [run for run in runs if run.is_bench]
    for what, found in ((RUN, [run for run in runs if not run.is_bench]), (BENCH, benches)):
        several([run.provenance.get("device", "cpu") for run in found], f"device ({what})")
        several([select(run.provenance, "versions.torch") for run in found], f"torch version ({what})")
    for key, what in (("machine.processor", "processor"), ("cuda", "GPU"), ("threads.torch", "number of threads")):
        several([select(run.provenance, key) for run in benches], f"{what} ({BENCH})")
    for run in benches:
        if waited(run) >= BUSY:
            text = f"threads of {row_name(run.config)} waited {waited(run):.0%} of their time for a processor"
            raise UserError(kind, name, f"benchmarks of a machine that has nothing else to do; {text}")
    options = [flat(run.config) for run in runs]
    of_the_task = dict.fromkeys(key for known in options for key in known if key.startswith(OF_THE_TASK))
    for key in dict.fromkeys([*SHARED, *of_the_task]):
        several([known[key] for known in options if key in known], key)


def _sort_key(row: Row, baseline: Row | None) -> tuple:
    """The key by which rows are sorted: first the baseline and its method, then by method, larger thresholds first."""
    method, threshold = row.group.method, -float(row.group.options.get("method.weight_epsilon") or 0)
    return row is not baseline, baseline is None or method != baseline.group.method, method, threshold, row.name
