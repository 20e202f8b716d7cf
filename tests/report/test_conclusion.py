"""The page's first words and its numbers."""

import copy
import json

import pytest

from tests.report import fakes
from tests.report.test_page import rich, rows
from wasi.report import conclusion
from wasi.report.comparison import Comparison
from wasi.report.gathered import gather
from wasi.report.load import read_runs
from wasi.report.page import accuracy
from wasi.report.page.cells import columns
from wasi.report.page.overall import overall
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Row
from wasi.runs.tuning_file import write_tuning


def output(folder):
    found = conclusion.of_block(rows(folder))
    return " ".join(statement.text for statement in found)


def column(folder, title):
    return next(found for found in columns(rows(folder)) if found.title == title)


def test_equal_accuracy_is_told_with_its_interval_and_what_is_saved(tmp_path):
    for seed, noise in enumerate((0.004, -0.003, 0.001, -0.001, 0.002)):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        rich(tmp_path, 0.9 + noise, "wasi", 0.8, seed)
    text = output(tmp_path)
    assert "The accuracy of wasi 0.8 cannot be told apart from that of vanilla (+0.06 points, 95 % interval" in text
    assert "5 seeds), and it takes 50% less peak memory in a training step (2.00×)" in text
    assert "Within noise of vanilla's accuracy [95 % interval] is wasi 0.8 (+0.06 points [−0.28, +0.40]): no" in text
    assert "So wide" not in text


def test_a_wide_interval_is_not_called_equal(tmp_path):
    for seed, noise in enumerate((0.05, -0.06)):
        rich(tmp_path, 0.8, "vanilla", None, seed)
        rich(tmp_path, 0.8 + noise, "wasi", 0.8, seed)
    assert "So wide an interval shows little" in output(tmp_path)


def test_a_loss_of_accuracy_is_told(tmp_path):
    for seed in range(3):
        rich(tmp_path, 0.9 + 0.001 * seed, "vanilla", None, seed)
        rich(tmp_path, 0.8 + 0.002 * seed, "wasi", 0.8, seed)
    text = output(tmp_path)
    assert "No WASI configuration keeps the accuracy of vanilla. Nearest is wasi 0.8 (−9.90 points" in text
    assert "Accuracy below vanilla's [95 % interval]: wasi 0.8 (−9.90 points [−10.15, −9.65])." in text


@pytest.mark.parametrize(("scatter", "is_as_near"), [(0.002, True), (0.0002, False), (0.02, False)])
def test_of_rows_as_near_to_vanilla_the_one_that_saves_most_is_told(tmp_path, scatter, is_as_near):
    """0.001 below the nearest: within noise, beyond it, and in so wide an interval that it shows nothing."""
    for seed, noise in enumerate((1, -1, 0.5, -0.5)):
        rich(tmp_path, 0.9 + 0.001 * seed, "vanilla", None, seed)
        rich(tmp_path, 0.85 + 0.001 * seed + 0.0001 * (seed % 2), "wasi", 0.8, seed)
        leaner = fakes.metrics(0.849 + 0.001 * seed + scatter * noise, 0.25)
        fakes.write(tmp_path, leaner, fakes.config("wasi", 0.4, seed))
    text = output(tmp_path)
    assert "Nearest by validation accuracy is wasi 0.8 (−5.00 points" in text
    assert ("Of those that cannot be told apart from it, wasi 0.4 saves most (−5.10 points" in text) is is_as_near


def test_one_seed_tells_no_difference_from_noise(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    rich(tmp_path, 0.89)
    assert "One seed cannot tell such a difference from noise" in output(tmp_path)


def test_the_best_vanilla_is_not_chosen_by_test_accuracy(tmp_path):
    for rate, val, test in ((0.1, 0.9, 0.7), (0.001, 0.5, 0.95)):
        numbers = fakes.metrics(val, **{"test/acc": test})
        fakes.write(tmp_path, numbers, fakes.config(options={"optimizer.lr": rate}))
    numbers = fakes.metrics(0.8, 0.5, **{"test/acc": 0.8})
    fakes.write(tmp_path, numbers, fakes.config("wasi", 0.8, options={"optimizer.lr": 0.001}))
    assert "Compared with “vanilla, lr=0.1”" in output(tmp_path)


def test_savings_are_told_against_the_vanilla_that_was_tuned_best(tmp_path):
    for seed in range(2):
        rich(tmp_path, 0.5 + 0.01 * seed, "vanilla", None, seed, **{"optimizer.lr": 0.001})
        rich(tmp_path, 0.9 + 0.01 * seed, "vanilla", None, seed, **{"optimizer.lr": 0.1})
        rich(tmp_path, 0.8 + 0.02 * seed, "wasi", 0.8, seed, **{"optimizer.lr": 0.001})
    text = output(tmp_path)
    assert "No WASI configuration keeps the accuracy of “vanilla, lr=0.1”" in text
    assert "above" not in text


def test_other_seeds_than_vanillas_are_not_called_equal(tmp_path):
    for seed, noise in enumerate((0.001, -0.001, 0.002)):
        rich(tmp_path, 0.9 + noise, "vanilla", None, seed)
        rich(tmp_path, 0.9 - noise, "wasi", 0.8, seed + 1)
    text = output(tmp_path)
    assert "must not be called equal" in text and "So wide an interval" not in text


def test_whether_the_subspace_iteration_is_needed_is_told(tmp_path):
    for seed, noise in enumerate((0.002, -0.001, 0.001)):
        rich(tmp_path, 0.9, "wasi", 0.8, seed, **{"method.update": "subspace"})
        rich(tmp_path, 0.8 + noise, "wasi", 0.8, seed, **{"method.update": "none"})
    text = output(tmp_path)
    assert "Is the subspace iteration needed at all? wasi 0.8, SGD (lr 0.05): yes, it is better with it" in text
    assert "-9.93 points [-10.31, -9.55] (n=3)" in text


def test_runs_without_vanilla_open_with_what_was_measured(tmp_path):
    for seed in (0, 1):
        rich(tmp_path, 0.8, "wasi", 0.8, seed)
    (first, *_) = conclusion.of_block(rows(tmp_path))
    assert first.tone == "main" and first.text == (
        "wasi 0.8: validation accuracy 0.8000 [0.8000, 0.8000]; peak memory of a training step 200 MiB; time of a "
        "training step 50.0 ms; time of inference 5.00 ms. No saving is stated, for want of a vanilla run of the same "
        "model, data and device."
    )


def test_equal_costs_are_not_called_noise(tmp_path):
    rich(tmp_path, name="vanilla", epsilon=None)
    fakes.write(tmp_path, fakes.metrics(0.8, **{"time/train_step_ms_p50": 50.0}), fakes.config("wasi", 0.8))
    assert "takes 50% less time per training step (2.00×) (peak memory of a training step" in output(tmp_path)
    assert "work of a training step: the same)" in output(tmp_path)


def test_the_pages_numbers_against_a_calculation_by_hand(tmp_path):
    """Accuracies 0.89, 0.90, 0.94 beside 0.90, 0.92, 0.94.

    Mean 0.91, standard deviation sqrt((0.02² + 0.01² + 0.03²) / 2) = 0.0264575, standard error 0.0152753.
    Differences in points -1, -2, 0: mean -1, standard error 1 / sqrt(3) = 0.577350. The 97.5 % point of Student's t
    with two degrees of freedom is 4.302653, so the half widths are 0.065725 and 2.484.
    """
    for seed, (vanilla, wasi) in enumerate(((0.90, 0.89), (0.92, 0.90), (0.94, 0.94))):
        fakes.write(tmp_path, fakes.metrics(vanilla), fakes.config(seed=seed))
        fakes.write(tmp_path, fakes.metrics(wasi, 0.5), fakes.config("wasi", 0.8, seed))
    found = rows(tmp_path)
    cells = {column.title: column.cells[1] for column in columns(found)}
    assert (cells["Accuracy"].text, cells["Accuracy"].note) == ("0.9100", "[0.8443, 0.9757]")
    assert (cells["Δ vanilla"].text, cells["Δ vanilla"].note) == ("−1.00 ≈", "[−3.48, +1.48]")
    assert (cells["Step peak"].text, cells["Step peak"].note) == ("200.0", "2.00×")
    assert found[1].comparison.p == pytest.approx(0.225403, abs=1e-6)  # t = -sqrt(3): 1 - sqrt(3 / (2 + 3))
    assert "−1.00 points, 95 % interval −3.48 to +1.48, 3 seeds" in output(tmp_path)


def test_times_of_several_machines_make_no_front(tmp_path):
    other = copy.deepcopy(fakes.PROVENANCE) | {"threads": {"torch": 1}}
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.7, 0.5), fakes.config("wasi", 0.8), provenance=other)
    assert "No Pareto front: step times are of several machines" in output(tmp_path)


BUSY = fakes.PROVENANCE | {"cpu_wait_share": 0.6}


@pytest.mark.parametrize("provenance", [BUSY, fakes.PROVENANCE | {"machine": {"processor": "EPYC"}}])
@pytest.mark.parametrize(("lacking", "what"), [("val/acc", "an accuracy"),
                                               ("memory/train_peak_mib", "a step time or peak memory")])  # fmt: skip
def test_a_row_that_cannot_be_on_the_front_does_not_take_it_from_the_others(tmp_path, provenance, lacking, what):
    rich(tmp_path, 0.9, "vanilla", None)
    rich(tmp_path, 0.8)
    fakes.write(tmp_path, fakes.metrics(0.7, **{lacking: None}), fakes.config("lora"), provenance=provenance)
    found = "Pareto-optimal in accuracy, step time and peak memory together: vanilla and wasi 0.8."
    text = output(tmp_path)
    assert f"{found} Not compared there, for want of {what}: lora." in text and "No Pareto" not in text


def test_a_single_row_that_could_be_on_the_front_makes_none(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    fakes.write(tmp_path, fakes.metrics(0.7, **{"val/acc": None}), fakes.config("lora"))
    assert "Pareto" not in output(tmp_path) and not any(row.on_front for row in rows(tmp_path))


def test_times_of_a_busy_machine_are_no_part_of_what_is_told(tmp_path):
    for name, ratio, epsilon in (("vanilla", 1.0, None), ("wasi", 0.5, 0.8), ("wsi", 0.7, 0.8)):
        fakes.write(tmp_path, fakes.metrics(0.8, ratio), fakes.config(name, epsilon), provenance=BUSY)
    text = output(tmp_path)
    assert "50% less peak memory in a training step (2.00×)" in text and "Least peak memory" in text
    assert "time of a training step and time of inference: not stated, as the machine was busy)" in text
    assert "less time" not in text and "Shortest" not in text and "Pareto-optimal" not in text
    assert "No Pareto front: step times of a busy machine are not to be trusted." in text
    assert not any(row.on_front for row in rows(tmp_path))


def test_without_vanilla_a_busy_machines_times_are_not_told_either(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8, 0.5), fakes.config("wasi", 0.8), provenance=BUSY)
    text = output(tmp_path)
    assert "peak memory of a training step 200 MiB" in text and "time of" not in text


@pytest.mark.parametrize("is_timed", [True, False])
def test_the_fastest_of_several_machines_is_not_named(tmp_path, is_timed):
    for threads, mib in ((2, 100), (4, 200)):
        numbers = fakes.metrics(0.9, 1 / threads, **{"memory/train_peak_mib": mib})
        numbers = {name: number for name, number in numbers.items() if is_timed or not name.startswith("time/")}
        config = fakes.config("wasi", threads / 10, options={"model.weights": "surrogate"})
        provenance = copy.deepcopy(fakes.PROVENANCE) | {"threads": {"torch": threads if is_timed else 1}}
        fakes.write(tmp_path, numbers, config, provenance=provenance)
    assert "Leanest is wasi 0.2: peak memory of a training step 100 MiB" in output(tmp_path)


def test_one_busy_side_spoils_a_ratio_of_times(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(), provenance=BUSY)
    fakes.write(tmp_path, fakes.metrics(0.8, 0.5), fakes.config("wasi", 0.8))
    assert "not stated, as the machine was busy" in output(tmp_path) and "less time" not in output(tmp_path)


def test_equal_differences_of_few_seeds_are_doubted(tmp_path):
    for seed in (0, 1):
        rich(tmp_path, 0.9 + 0.01 * seed, "vanilla", None, seed)
        rich(tmp_path, 0.89 + 0.01 * seed, "wasi", 0.8, seed)
    text = output(tmp_path)
    assert "accuracy −1.00 points, 2 seeds. All seeds differ by just as much" in text
    assert "One seed" not in text and "No WASI" not in text and "Accuracy below" not in text
    (note,) = (cell.note for cell in column(tmp_path, "Δ vanilla").cells if cell.note)
    assert note == "the same for every seed"


def test_a_difference_of_none_on_every_seed_is_no_proof_of_equality(tmp_path):
    for seed in (0, 1):
        rich(tmp_path, 0.9 + 0.01 * seed, "vanilla", None, seed)
        rich(tmp_path, 0.9 + 0.01 * seed, "wasi", 0.8, seed)
    assert "(+0.00 points, 2 seeds)" in output(tmp_path) and "All seeds agree exactly" in output(tmp_path)


def test_seeds_that_all_have_one_accuracy_and_are_not_vanillas_give_no_verdict(tmp_path):
    for seed in (0, 1):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        rich(tmp_path, 0.8, "wasi", 0.8, seed + 5)
    assert "show no noise to tell it from" in output(tmp_path)


def test_what_was_tuned_and_an_imbalance_stand_in_the_first_table(tmp_path):
    numbers = fakes.metrics(0.95, **{"val/balanced_acc": 0.5})
    job = fakes.write(tmp_path, numbers, fakes.config()).parent.name
    grid = [{"optimizer.lr": 0.05}, {"optimizer.lr": 0.1}]
    tried = TunedRow(Row("vanilla", {}, grid), [job, "other"], [(0.95,), (0.9,)], ["completed"] * 2)
    write_tuning(tmp_path, "0", [tried], ["val/acc"])
    assert [cell.text for cell in column(tmp_path, "Tuned").cells] == ["lr=0.05 (on the edge)"]
    assert [cell.text for cell in column(tmp_path, "Balanced").cells] == ["0.5000"]


def test_without_tuning_and_imbalance_there_are_no_such_columns(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.95, **{"val/balanced_acc": 0.94}), fakes.config())
    assert not {"Tuned", "Balanced"} & {found.title for found in columns(rows(tmp_path))}


def test_the_row_told_of_is_not_the_one_whose_noise_hides_most(tmp_path):
    """Of two rows that no test tells from vanilla, the cheaper one is 7 points below it, by two seeds far apart."""
    for seed, noise in enumerate((0.005, -0.006)):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        rich(tmp_path, 0.83 + 8 * noise, "wasi", 0.4, seed)
        fakes.write(tmp_path, fakes.metrics(0.895 + noise, 0.8), fakes.config("wasi", 0.8, seed))
    assert "The accuracy of wasi 0.8 cannot be told apart from that of vanilla (−0.55 points" in output(tmp_path)


def test_a_long_list_of_rows_below_vanilla_is_counted(tmp_path):
    for seed, noise in enumerate((0.001, -0.001, 0.0)):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        for epsilon in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            rich(tmp_path, 0.7 + epsilon / 10 + noise, "wasi", epsilon, seed)
    ends = "from wasi 0.9 (−11.00 points [−11.25, −10.75]) to wasi 0.3 (−17.00 points [−17.25, −16.75])"
    below = f"Accuracy below vanilla's [95 % interval]: 7 of 7 rows, {ends}."
    assert below in output(tmp_path)


def test_a_long_list_of_rows_within_noise_is_counted(tmp_path):
    for seed, noise in enumerate((0.01, -0.01)):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        for epsilon in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            rich(tmp_path, 0.9 + noise, "wasi", epsilon, seed)
    text = output(tmp_path)
    assert "7 of 7 rows are within noise of vanilla's accuracy (≈ in the table): no difference shown, nor" in text


def test_a_loss_that_is_not_ruled_out_is_not_called_equal(tmp_path):
    """-1.7 points and an interval from -3.5 to +0.1: narrow enough, but it reaches far below."""
    for seed, noise in enumerate((0.0065, -0.0065, 0.0065, -0.0065)):
        rich(tmp_path, 0.9, "vanilla", None, seed)
        rich(tmp_path, 0.883 + 1.5 * noise, "wasi", 0.8, seed)
    text = output(tmp_path)
    assert "within noise" in text.lower() and "So wide an interval shows little" in text


def test_costs_of_steps_of_different_work_are_not_ranked(tmp_path):
    for size, cost in ((16, 1.0), (64, 4.0)):
        rich(tmp_path, 0.9, "vanilla", None, **{"dataset.batch_size": size})
        numbers = fakes.metrics(0.89, cost / 2)
        fakes.write(tmp_path, numbers, fakes.config("wasi", 0.8, options={"dataset.batch_size": size}))
    text = output(tmp_path)
    assert "No Pareto front of the 4 rows. They differ in batch or image size" in text
    assert "Pareto-optimal" not in text and "Shortest" not in text and "Least peak" not in text
    panels = accuracy.section(rows(tmp_path)).figures
    assert "step-after" not in json.dumps([panel.spec for panel in panels])  # the front of a panel
    assert "Pareto" not in [one.title for one in columns(rows(tmp_path))]


def test_the_nearest_row_is_chosen_by_validation_images(tmp_path):
    """And not by the test images that are quoted, on which wasi 0.4 was luckier."""
    rows = (("vanilla", None, 0.9, 0.9), ("wasi", 0.8, 0.82, 0.80), ("wasi", 0.4, 0.79, 0.81))
    for seed, noise in enumerate((0.002, -0.001, 0.001)):
        for method, epsilon, validation, test in rows:
            found = fakes.metrics(validation + noise, 0.5) | {"test/acc": test - noise * (method == "wasi")}
            fakes.write(tmp_path, found, fakes.config(method, epsilon, seed))
    assert "Nearest by validation accuracy is wasi 0.8 (−10.07 points" in output(tmp_path)


def test_rows_that_one_seed_cannot_judge_are_named(tmp_path):
    for seed, noise in enumerate((0.002, -0.001, 0.001)):
        rich(tmp_path, 0.9 + noise, "vanilla", None, seed)
        rich(tmp_path, 0.8 - noise, "wasi", 0.8, seed)
    rich(tmp_path, 0.895, "wasi", 0.9, 0)
    text = output(tmp_path)
    assert "No WASI configuration that its seeds can judge keeps the accuracy of vanilla. Nearest is wasi 0.8" in text
    assert "Not judged: wasi 0.9 (−0.70 points)." in text


def test_what_has_no_completed_run_is_named(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    for seed in range(2):
        fakes.write(tmp_path, {}, fakes.config("wasi", 0.8, seed), status="failed", error="out of memory")
    found = read_runs([tmp_path])[0]
    first, second = overall(found, [], not_begun=6)
    assert first.tone == second.tone == "loud"
    assert "2 of 3 runs are left out" in first.text
    assert first.text.endswith("So there is no result at all of wasi 0.8, vit_micro on digits.")
    assert second.text.startswith("6 jobs of the sweep have not begun")


def test_what_has_no_completed_run_is_named_beside_a_twin_of_its_name(tmp_path):
    rich(tmp_path, 0.9, "wasi", 0.8, **{"optimizer.lr": 0.05})
    rich(tmp_path, 0.8, "wasi", 0.8, **{"optimizer.lr": 0.02, "optimizer.momentum": 0.9})
    for seed in range(2):
        failed = fakes.config("wasi", 0.8, seed, {"optimizer.lr": 0.5})
        fakes.write(tmp_path, {}, failed, status="diverged", error="loss is nan")
    (first,) = overall(read_runs([tmp_path])[0], [])
    assert first.text.endswith("So there is no result at all of wasi 0.8, vit_micro on digits with lr=0.5.")


def test_a_configuration_that_lost_some_seeds_is_named(tmp_path):
    for seed in range(2):
        rich(tmp_path, 0.9, "vanilla", None, seed)
    rich(tmp_path, 0.89, "wasi", 0.8, 0)
    rich(tmp_path, 0.88, "wasi", 0.4, 0)
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.8, 1), status="diverged", error="loss is nan")
    fakes.write(tmp_path, {}, fakes.config("wasi", 0.4, 0), status="failed", error="disk")  # and done by another job
    (first,) = overall(read_runs([tmp_path])[0], [])
    assert first.text.endswith("The means of wasi 0.8, vit_micro on digits are over the seeds that are left.")


def test_rows_that_are_as_cheap_are_counted(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    for name, epsilon in (("wasi", 0.4), ("wasi", 0.8), ("svd_llm", 0.8), ("lora", None), ("asi", 0.8)):
        rich(tmp_path, 0.8, name, epsilon)
    assert "wasi 0.8 (200 MiB), with 2 more rows at 200 MiB." in output(tmp_path)


@pytest.mark.parametrize("all_in_turns", [True, False])
def test_the_shortest_step_is_that_of_ratios_measured_in_turns_where_every_row_has_one(
    tmp_path, monkeypatch, all_in_turns
):
    """The machine was slower while WASI was timed: LoRA has the shorter time, and beside vanilla the longer."""
    for name, ms in (("vanilla", 100), ("wasi", 60), ("lora", 50)):
        found = fakes.metrics(0.9, **{"time/train_step_ms_p50": ms})
        fakes.write(tmp_path, found, fakes.config(name, 0.8 if name == "wasi" else None))
    ratios = {"wasi": {"p50": 2.0}} | ({"lora": {"p50": 1.5}} if all_in_turns else {})
    monkeypatch.setattr(Comparison, "in_turns", lambda self, _: ratios.get(self.group.method))
    in_turns = ", measured in turns with vanilla's: wasi 0.8 (2.00×), lora (1.50×) and vanilla (1.00×)."
    alone = ": lora (50.0 ms), wasi 0.8 (60.0 ms) and vanilla (100 ms)."
    assert f"Shortest training step{in_turns if all_in_turns else alone}" in output(tmp_path)


def test_no_cheapest_is_named_where_all_cost_the_same(tmp_path):
    for rate in (0.1, 0.05, 0.02):
        rich(tmp_path, 0.9, "vanilla", None, **{"optimizer.lr": rate})
    assert "Least peak" not in output(tmp_path) and "Shortest" not in output(tmp_path)


def test_a_row_of_one_seed_on_the_front_beside_others_of_several_is_told_as_such(tmp_path):
    for seed in range(2):
        rich(tmp_path, 0.9, "vanilla", None, seed)
    rich(tmp_path, 0.91, "lora", None, 0)
    assert "Pareto-optimal in accuracy, step time and peak memory together: lora (one seed)." in output(tmp_path)


def test_jobs_that_never_began_are_counted(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    (tmp_path / "sweep.json").write_text(json.dumps({"jobs": 3, "folders": ["job0", "a", "b"]}))
    report = gather([tmp_path])
    assert report.not_begun == 2 and any("not begun: 2" in line for line in report.not_averaged)


def test_a_job_that_another_sweep_has_too_has_begun_in_both(tmp_path):
    for sweep in ("one", "two"):
        rich(tmp_path / sweep, 0.9, "vanilla", None)
        (tmp_path / sweep / "sweep.json").write_text(json.dumps({"jobs": 1, "folders": ["job0"]}))
    report = gather([tmp_path / "one", tmp_path / "two"])
    assert (len(report.runs), report.not_begun) == (1, 0)


def test_of_many_vanillas_those_that_others_are_compared_with_have_a_line(tmp_path):
    for rate in (0.1, 0.05, 0.02):
        rich(tmp_path, 0.9, "vanilla", None, **{"optimizer.lr": rate})
    rich(tmp_path, 0.8)  # of lr=0.05
    panel = accuracy.section(rows(tmp_path)).figures[0].spec
    assert [value["name"] for value in panel["data"]["values"] if "reference" in value] == ["vanilla, lr=0.05"]


def test_the_energy_of_a_step_is_a_column_and_a_saving_where_it_was_measured(tmp_path):
    rich(tmp_path, 0.9, "vanilla", None)
    assert "Step energy" not in [one.title for one in columns(rows(tmp_path))]
    for name, epsilon, joules in (("vanilla", None, 8.0), ("wasi", 0.8, 2.0)):
        numbers = fakes.metrics(0.9, **{"energy/train_step_joules": joules})
        fakes.write(tmp_path / "measured", numbers, fakes.config(name, epsilon))
    assert [cell.text for cell in column(tmp_path / "measured", "Step energy").cells] == ["8.000", "2.000"]
    assert "75% less energy per training step (4.00×)" in output(tmp_path / "measured")
