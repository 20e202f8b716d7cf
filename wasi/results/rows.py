"""Records as the rows of a table: each configuration's accuracy, times and memory beside the baseline's."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from wasi.config.declared import reference
from wasi.config.relevance import lean_defaults
from wasi.errors import UserError
from wasi.measure.contention import BUSY
from wasi.report.columns import PEAK, STEP, TEST, VALIDATION, Cost
from wasi.report.pareto import on_front
from wasi.report.statistics import Paired, mean, paired, std
from wasi.results.kept_result import BENCH, RUN, Record

_MEMORY_POLICY = {"train.memory", "train.step_in_backward"} | {f"train.{key}" for key in lean_defaults(None, "cpu")}


@dataclass(frozen=True)
class Row:
    """One configuration: its runs, which differ by seed, and its benchmark where there is one.

    accuracy: seed -> fraction.
    trained_as: a row that differs by memory policy alone and has runs, where this one has none of its own. Its
        accuracy is not taken for this one's: lean steps round what passes between blocks (`train.storage`).
    """

    name: str
    config: dict[str, Any]
    accuracy: dict[int, float]
    bench: Record | None
    trained_as: str | None = None

    @property
    def method(self) -> str:
        return str(self.config["method.name"])

    @property
    def is_lean(self) -> bool:
        return self.config.get("train.memory") == "lean"

    @property
    def base(self) -> str | None:
        """The number format of frozen weights, where it is not the model's own."""
        return self.config.get("method.base")

    @property
    def mean(self) -> float | None:
        return mean(list(self.accuracy.values()))

    @property
    def std(self) -> float | None:
        return std(list(self.accuracy.values()))

    def in_turns(self, cost: Cost) -> dict[str, float] | None:
        """p50, low and high of baseline / this, both measured in turns; above 1 is better."""
        return None if self.bench is None else self.bench.ratio.get(cost.metric)

    def ratio(self, cost: Cost) -> float | None:
        found = self.in_turns(cost)
        return None if found is None else found["p50"]

    def measured(self, cost: Cost) -> float | None:
        return None if self.bench is None else self.bench.metrics.get(cost.metric)

    @cached_property
    def point(self) -> tuple[float, float, float] | None:
        """Accuracy, speed of a step and minus the peak of live tensors; None where one is missing."""
        accuracy, speed, peak = self.mean, self.ratio(STEP), self.measured(PEAK)
        return None if accuracy is None or speed is None or peak is None else (accuracy, speed, -peak)

    def differs_by_memory_policy_only(self, other: "Row") -> bool:
        return _without_policy(self.config) == _without_policy(other.config)


@dataclass(frozen=True)
class Comparison:
    """Rows of one table. accuracy_metric: `test/acc` where every run has it, else `val/acc`."""

    rows: list[Row]
    baseline: Row | None
    accuracy_metric: str
    records: list[Record]

    def difference(self, row: Row) -> Paired | None:
        """Accuracy minus the baseline's, over equal seeds; None for the baseline itself."""
        if self.baseline is None or row is self.baseline:
            return None
        return paired(row.accuracy, self.baseline.accuracy)

    @cached_property
    def front(self) -> set[str]:
        """Names of the rows that no other beats in accuracy, time and memory together."""
        marks = on_front([row.point for row in self.rows])
        return {row.name for row, marked in zip(self.rows, marks, strict=True) if marked}


def compare(table: str, records: list[Record]) -> Comparison:
    """The records of one table as its rows, compared with their baseline.

    Args:
        table: its name, for what is refused.

    Raises:
        UserError: the records are not of one clean commit, one kind of device and one task, the benchmarks not of one
            machine that had nothing else to do, or those of a row not of one configuration.
    """
    refuse_mixtures(table, records)
    runs = [record for record in records if record.kind == RUN]
    metric = TEST if runs and all(TEST in record.metrics for record in runs) else VALIDATION
    names = dict.fromkeys(record.row for record in records)
    rows = [_row(table, name, [r for r in records if r.row == name], metric) for name in names]
    bases = {record.baseline for record in records if record.kind == BENCH and record.baseline}
    if len(bases) > 1:
        raise UserError("table", table, f"benchmarks against one baseline, not {', '.join(sorted(bases))}")
    references = [row.name for row in rows if row.method == reference()]
    name = bases.pop() if bases else references[0] if len(references) == 1 else reference()
    baseline = next((row for row in rows if row.name == name), None)
    rows = sorted((_pointing_to_runs(row, rows) for row in rows), key=lambda row: _place(row, baseline))
    return Comparison(rows, baseline, metric, records)


def _row(table: str, name: str, records: list[Record], metric: str) -> Row:
    configs = {repr(sorted(record.config.items(), key=lambda item: item[0])) for record in records}
    runs = [record for record in records if record.kind == RUN]
    benches = [record for record in records if record.kind == BENCH]
    seeds = [record.seed for record in runs]
    if len(configs) > 1 or len(set(seeds)) < len(seeds) or len(benches) > 1:
        raise UserError("table", table, f"one configuration in row {name}, with each seed and one benchmark once")
    accuracy = {record.seed: record.metrics[metric] for record in runs if metric in record.metrics}
    return Row(name, records[0].config, dict(sorted(accuracy.items())), benches[0] if benches else None)


def _pointing_to_runs(row: Row, rows: list[Row]) -> Row:
    """The row itself or, where it was not trained, with the name of one that was under another memory policy."""
    twins = [other for other in rows if other.accuracy and other.differs_by_memory_policy_only(row)]
    if row.accuracy or not twins:
        return row
    return replace(row, trained_as=twins[0].name)


def refuse_mixtures(table: str, records: list[Record]) -> None:
    """Raise UserError for records that cannot stand in one table.

    They are of one clean commit, one kind of device (cpu, cuda) and one torch version per kind of record, and one task.
    Benchmarks are of one processor, GPU and number of threads, and of times that no other processes have spoilt.
    Accuracies may come from several processors, GPUs and numbers of threads, which `wasi.results.table.source` names: a
    processor rounds as it likes, and what that changes is no more than what another seed does.
    """

    def several(values: list, what: str) -> None:
        different = list(dict.fromkeys(map(str, values)))
        if len(different) > 1:
            raise UserError("table", table, f"results of one {what}, not {' and '.join(different)}")

    several([(record.provenance.get("git_commit") or "none")[:10] for record in records], "commit")
    dirty = next((record for record in records if record.provenance.get("git_dirty", True)), None)
    if dirty is not None:
        which = f"{dirty.row}, seed {dirty.seed}"
        raise UserError("table", table, f"results of committed code; {which} is of a dirty tree")
    benches = [record for record in records if record.kind == BENCH]
    for kind, found in ((RUN, [record for record in records if record.kind == RUN]), (BENCH, benches)):
        several([record.provenance.get("device", "cpu") for record in found], f"device ({kind})")
        several([(record.provenance.get("versions") or {}).get("torch") for record in found], f"torch version ({kind})")
    for key, what in (("processor", "processor"), ("cuda", "GPU"), ("threads", "number of threads")):
        several([record.provenance.get(key) for record in benches], f"{what} ({BENCH})")
    for record in benches:
        if (share := record.provenance.get("cpu_wait_share") or 0.0) >= BUSY:
            waited = f"threads of {record.row} waited {share:.0%} of their time for a processor"
            raise UserError("table", table, f"benchmarks of a machine that has nothing else to do; {waited}")
    for key in records[0].shared:
        several([record.shared.get(key) for record in records], key)


def _without_policy(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _MEMORY_POLICY}


def _place(row: Row, baseline: Row | None) -> tuple:
    """The baseline first, then method by method, larger thresholds first, a lean row after its plain one."""
    threshold = -float(row.config.get("method.weight_epsilon") or 0)
    return row is not baseline, baseline is None or row.method != baseline.method, row.method, threshold, row.name
