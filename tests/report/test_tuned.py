"""What the report tells of a choice."""

from wasi.report.tuned import tuned_value
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Row
from wasi.runs.tuning_file import write_tuning


def test_the_edge_is_told_of_the_option_that_lies_on_it(tmp_path):
    grid = [{"optimizer.lr": rate, "x": x} for x in (8, 16) for rate in (0.1, 0.2, 0.3)]
    jobs = [f"job{place}" for place in range(len(grid))]
    values = [(float(point == {"optimizer.lr": 0.2, "x": 16}),) for point in grid]
    row = TunedRow(Row("vanilla", {}, grid), jobs, values, ["completed"] * len(grid))
    write_tuning(tmp_path, "0", [row], ["val/acc"])
    assert tuned_value(tmp_path / "job4") == "lr=0.2, x=16 (on the edge)"
    assert tuned_value(tmp_path / "job3") is None
    first = TunedRow(Row("vanilla", {}, grid[:3]), jobs[:3], [(0.9,), (0.5,), (0.1,)], ["completed"] * 3)
    write_tuning(tmp_path, "0", [first], ["val/acc"])
    assert tuned_value(tmp_path / "job0") == "lr=0.1 (on the edge), x=8"


def test_completed_points_without_an_objective_are_not_told_as_failed():
    grid = [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.2}]
    objectives = ("val/acc", "memory/train_rss_peak_mib")
    output = [
        TunedRow(Row("vanilla", {}, grid), ["a", "b"], [None, None], [status, "failed"], objectives).lines()
        for status in ("completed", "failed")
    ]
    lacking = "no completed point has val/acc and memory/train_rss_peak_mib"
    assert output[0] == [f"tuning vanilla: {lacking}, its seeds are not run"]
    assert output[1] == ["tuning vanilla: no point was completed, its seeds are not run"]
