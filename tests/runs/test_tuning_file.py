"""Which jobs of a sweep count after a row was tuned again under the same name."""

import pytest

from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Row
from wasi.runs.tuning_file import Choice, not_chosen, read_tuning, write_tuning

VANILLA = {"method": "vanilla", "sweep": "t"}


def job(rate, seed):
    return f"lr{rate}-s{seed}"


def tune(folder, accuracies, seeds=(0, 1, 2), overrides=VANILLA):
    """As a command does that tries these rates (rate -> accuracy, None for a run that failed) with the first seed."""
    grid = [{"optimizer.lr": rate} for rate in accuracies]
    values = [None if accuracy is None else (accuracy,) for accuracy in accuracies.values()]
    jobs = [job(rate, seeds[0]) for rate in accuracies]
    row = TunedRow(Row("vanilla", overrides, grid), jobs, values, ["completed"] * len(grid))
    choices = [choice(point["optimizer.lr"], seeds, overrides) for point in row.choices]
    write_tuning(folder, str(seeds[0]), [row], ["val/acc"], choices)


def choice(rate, seeds=(0, 1, 2), overrides=VANILLA):
    return Choice(overrides, {"optimizer.lr": rate}, [job(rate, seed) for seed in seeds])


def every(rate, seeds=(0, 1, 2)):
    return {job(rate, seed) for seed in seeds}


def test_a_choice_that_is_replaced_takes_all_its_seeds_along_and_comes_back_with_them(tmp_path):
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8})
    assert not_chosen(tmp_path) == {job(0.03, 0)}
    tune(tmp_path, {0.001: 0.95, 0.01: 0.9})
    assert not_chosen(tmp_path) == {job(0.03, 0)} | every(0.01)
    tune(tmp_path, {0.001: 0.7, 0.01: 0.9}, seeds=(0,))
    assert not_chosen(tmp_path) == {job(0.03, 0)} | every(0.001)


def test_another_tuning_that_chooses_the_same_adds_its_seeds(tmp_path):
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8})
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8}, seeds=(3, 4))
    assert not_chosen(tmp_path) == {job(0.03, 0), job(0.03, 3)}


def test_a_row_of_which_nothing_is_completed_any_more_has_no_jobs_that_count(tmp_path):
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8})
    tune(tmp_path, {0.5: None, 0.6: None})
    assert not_chosen(tmp_path) == {job(0.03, 0), job(0.5, 0), job(0.6, 0)} | every(0.01)


@pytest.mark.parametrize("overrides", [VANILLA, {**VANILLA, "tune.lr": "[0.03]"}])
def test_a_row_that_is_asked_for_without_a_grid_takes_the_place_of_its_tuning(overrides, tmp_path):
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8})
    write_tuning(tmp_path, "0", [], ["val/acc"], [choice(0.03, overrides=overrides)])
    assert not_chosen(tmp_path) == every(0.01) and read_tuning(tmp_path)["rows"] == []
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8})
    assert not_chosen(tmp_path) == every(0.03)


def test_what_another_row_asks_for_counts_though_this_one_gave_it_up(tmp_path):
    given = {**VANILLA, "optimizer.lr": "0.01"}
    tune(tmp_path, {0.01: 0.9, 0.03: 0.8})
    write_tuning(tmp_path, "0", [], ["val/acc"], [Choice(given, {}, [job(0.01, seed) for seed in range(3)])])
    tune(tmp_path, {0.001: 0.95, 0.01: 0.9})
    assert not_chosen(tmp_path) == {job(0.03, 0)}


def test_a_file_from_before_the_jobs_of_other_seeds_were_kept_is_read(tmp_path):
    grid = [{"optimizer.lr": 0.01}]
    row = TunedRow(Row("vanilla", VANILLA, grid), [job(0.01, 0)], [(0.9,)], ["completed"])
    write_tuning(tmp_path, "0", [row], ["val/acc"])
    tune(tmp_path, {0.02: 0.9, 0.03: 0.8})
    assert not_chosen(tmp_path) == {job(0.01, 0), job(0.03, 0)}


@pytest.mark.parametrize("text", ['{"left_out": null}', '{"seed": "0", "left_out": [], "rows": [{}]}', "[]", "{"])
def test_a_damaged_file_counts_as_none(text, tmp_path):
    (tmp_path / "tuning.json").write_text(text)
    assert read_tuning(tmp_path) is None and not_chosen(tmp_path) == set()
