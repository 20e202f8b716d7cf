"""report.csv with one line per run and report_groups.csv with one per table row, numbers in full precision."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wasi.config.files import select
from wasi.config.naming import show
from wasi.config.rank_thresholds import activation_epsilon, weight_epsilon
from wasi.paths import without_absolute_paths
from wasi.report.blocks import Block
from wasi.report.columns import COSTS
from wasi.report.comparison import Comparison
from wasi.report.groups import Group, identity
from wasi.report.load import Run
from wasi.report.options import result_options, unquotable

_CONFIG = {
    "model": "model.name",
    "weights": "model.weights",
    "dataset": "dataset.name",
    "batch_size": "dataset.batch_size",
    "method": "method.name",
    "recipe": "recipe",
    "scope": "method.scope",
    "seed": "seed",
    "epochs": "train.epochs",
    "optimizer": "optimizer._target_",
    "lr": "optimizer.lr",
}
_COLUMN_OF_ITS_OWN = (
    *_CONFIG.values(),
    "method._target_",  # which the method's name tells
    "method.weight_epsilon",
    "method.activations.epsilon",
)
_METRICS = ("test/acc", "test/loss", "val/acc", "val/loss", "train/loss", *(cost.metric for cost in COSTS))
_CODE = ("git_commit", "git_dirty", "versions.torch")
_MACHINE = ("machine.processor", "machine.hostname", "threads.torch")
_TIMES = ("start", "wall_seconds", "resumed_from_step")


def runs_csv(runs: list[Run], base: Path) -> str:
    """The text of report.csv, with one line per run.

    Args:
        base: the folder that paths are written relative to, see `relative`.
    """
    differing = _differing(runs)
    return _shown(_run_row(run, differing, base) for run in runs)


def groups_csv(blocks: Iterable[Block]) -> str:
    """The text of report_groups.csv, with one line per row of the tables."""
    return _shown(_group_row(block, comparison) for block in blocks for comparison in block.comparisons)


def relative(path: Path, base: Path) -> str:
    """The path relative to `base` or to the working folder, if it is below one of them, else the name alone."""
    path, base = path.resolve(), base.resolve()
    return str(path.relative_to(base)) if path.is_relative_to(base) else without_absolute_paths(str(path))


def _run_row(run: Run, differing: list[str], base: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"run": relative(run.shown_path, base), "status": run.status, "error": run.error}
    row |= {name: select(run.config, key) for name, key in _CONFIG.items()}
    row |= {"weight_epsilon": weight_epsilon(run.config), "activation_epsilon": activation_epsilon(run.config)}
    options = result_options(run.config)
    row |= {key: options.get(key) for key in differing}
    row |= {name: run.metrics[name] for name in (*_METRICS, *sorted(run.metrics)) if name in run.metrics}
    row |= {f"provenance.{key}": select(run.provenance, key) for key in (*_CODE, *_MACHINE, *_TIMES)}
    return row | {"fingerprint": run.fingerprint}


def _differing(runs: list[Run]) -> list[str]:
    """The options that can change a result, differ between the runs and have no column yet, as dotted keys."""
    configs = [result_options(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    others = [key for key in keys if key not in _COLUMN_OF_ITS_OWN]
    return [key for key in others if len({repr(config.get(key)) for config in configs}) > 1]


def _group_row(block: Block, comparison: Comparison) -> dict[str, Any]:
    group = comparison.group
    method, scope, weight, activation = identity(group)
    row: dict[str, Any] = {"model": block.model, "dataset": block.dataset, "method": method}
    row |= {"recipe": group.recipe, "scope": scope}
    row |= {"weight_epsilon": weight, "activation_epsilon": activation}
    row |= {key: group.options.get(key) for key in block.differing}
    row |= {"n": len(group.trained) or None, "seeds": " ".join(map(str, group.seeds))}
    if reasons := unquotable(group.config):
        row["accuracy not to be quoted"] = " and ".join(reasons)
    accuracy = group.accuracy
    row |= {f"{accuracy} mean": group.mean(accuracy), f"{accuracy} std": group.std(accuracy)}
    row |= {f"{accuracy} minus baseline": comparison.accuracy_difference}
    low, high = comparison.interval or (None, None)
    row |= {"paired low": low, "paired high": high}
    row |= {"p": comparison.p, "test": _test(comparison), "verdict": comparison.verdict}
    for cost in COSTS:
        row |= {f"{cost.metric} mean": group.mean(cost.metric), f"{cost.metric} std": group.std(cost.metric)}
        row |= {f"{cost.metric} ratio": comparison.ratio(cost)}
    row |= {"baseline": _fingerprints(comparison.baseline), "baseline of costs": _fingerprints(comparison.costs_beside)}
    row |= {"remarks": "; ".join(comparison.remarks), "fingerprints": _fingerprints(group)}
    return row


def _fingerprints(group: Group | None) -> str | None:
    return None if group is None else " ".join(run.fingerprint for run in group.runs)


def _test(comparison: Comparison) -> str | None:
    """Which t-test gave `p`."""
    if comparison.p is None:
        return None
    return "Welch" if comparison.pairing is None else "paired"


def _shown(rows: Iterable[dict[str, Any]]) -> str:
    """`csv_text` of rows whose values are written as the report shows them."""
    return csv_text([{name: _cell(value) for name, value in row.items()} for row in rows])


def csv_text(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as the text of a CSV file. A cell is empty where the row lacks the column or has None.

    Args:
        columns: the columns to write. None writes all that a row has, each at the place where the first row that has it
            puts it.
    """
    file = io.StringIO()
    names = _columns(rows) if columns is None else columns
    writer = csv.DictWriter(file, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns: list[str] = []
    for row in rows:
        index = 0
        for name in row:
            if name not in columns:
                columns.insert(index, name)
            index = columns.index(name) + 1
    return columns


def _cell(value: Any) -> Any:
    """The value for a cell: numbers and text as they are, None so that the cell stays empty, else `show`."""
    return value if value is None or isinstance(value, (int, float, str)) else show(value)
