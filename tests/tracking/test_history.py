"""Rows of what a run has logged, as they are read after a kill."""

from wasi.tracking.history import History


def test_lines_of_a_step_are_one_row_and_lines_that_are_no_row_are_skipped(tmp_path):
    history = History(tmp_path / "history.jsonl")
    history.append(2, {"val/acc": 0.5})
    history.append(1, {"train/loss": 2.0})
    history.append(2, {"train/loss": 1.0})
    with open(history.path, "a", encoding="utf-8") as file:
        file.write('[3]\n{"train/loss": 0.1}\n{"step": 3, "tra')
    assert history.rows() == [(1, {"train/loss": 2.0}), (2, {"val/acc": 0.5, "train/loss": 1.0})]
