"""The kept results of this repository: reports of them say what the documents' tables say."""

from pathlib import Path

import pytest

from wasi.report.blocks import blocks_of
from wasi.report.columns import INFERENCE, STEP
from wasi.report.load import read_runs
from wasi.results.kept_result import read_kept
from wasi.results.rows import table_of

RESULTS = Path(__file__).resolve().parents[2] / "results"
TABLES = sorted(path.name for path in RESULTS.iterdir() if path.is_dir() and not path.name.endswith("_grid"))


@pytest.mark.parametrize("name", TABLES)
def test_a_report_of_kept_results_has_the_differences_and_ratios_of_their_table(name):
    table = table_of(name, read_kept(RESULTS / name))
    runs, warnings = read_runs([RESULTS / name])
    rows = {run.path: one for block in blocks_of(runs) for one in block.comparisons for run in _sources(one.group)}
    assert warnings == [] and table.rows
    for row in table.rows:
        (reported,) = {id(rows[run.path]): rows[run.path] for run in _sources(row.group)}.values()
        difference = table.difference(row)
        assert reported.accuracy_difference == (None if difference is None else pytest.approx(difference.difference))
        if row is not table.baseline:  # a report does not compare it with itself
            for cost in (STEP, INFERENCE):
                assert (reported.in_turns(cost) or {}).get("p50") == row.ratio(cost), (row.name, cost.title)


def _sources(group):
    return [*group.runs, *([group.bench] if group.bench else [])]
