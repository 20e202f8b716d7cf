import copy
import re

import pytest

from tests.bench import jobs as benchmarks
from tests.report import fakes
from wasi.bench.jobs import baselines, read_jobs
from wasi.report.blocks import blocks_of, row_names
from wasi.report.columns import COSTS, ENERGY, FLOPS, PAPER, PEAK, PROCESS, STEP
from wasi.report.load import read_runs
from wasi.report.write import write_report


def compared(folder):
    (block,) = blocks_of(read_runs([folder])[0])
    return {(c.group.method, c.group.options["optimizer.lr"]): c for c in block.comparisons}


def add(folder, acc, cost, *arguments, options=None, provenance=None, **metrics):
    fields = {} if provenance is None else {"provenance": provenance}
    fakes.write(folder, fakes.metrics(acc, cost, **metrics), fakes.config(*arguments, options=options), **fields)


def test_ratios_are_of_means_over_seeds_and_above_one_when_better(tmp_path):
    for seed, cost in enumerate((0.9, 1.1)):
        add(tmp_path, 0.8, cost, "vanilla", None, seed)
    for seed, cost in enumerate((0.2, 0.3)):
        add(tmp_path, 0.9, cost, "wasi", 0.8, seed)
    comparison = compared(tmp_path)["wasi", 0.05]
    assert comparison.accuracy_difference == pytest.approx(0.1)
    for cost in set(COSTS) - {ENERGY}:
        assert comparison.ratio(cost) == pytest.approx(4.0)
    assert comparison.ratio(ENERGY) is None  # which these have not measured


def test_a_seedless_metric_gives_no_ratio(tmp_path):
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.8, 0.5, "wasi", 0.8, **{PEAK.metric: None, STEP.metric: 0.0})
    comparison = compared(tmp_path)["wasi", 0.05]
    assert comparison.ratio(PEAK) is None
    assert comparison.ratio(STEP) is None  # vanilla / 0 is no number


def test_vanilla_has_no_ratio_to_itself(tmp_path):
    add(tmp_path, 0.8, 1.0, "vanilla")
    comparison = compared(tmp_path)["vanilla", 0.05]
    assert comparison.is_own_baseline and comparison.ratio(PEAK) is None and comparison.verdict is None


def test_the_vanilla_with_the_same_options_is_taken(tmp_path):
    for lr, cost in ((0.02, 1.0), (0.05, 3.0)):
        add(tmp_path, 0.8, cost, "vanilla", options={"optimizer.lr": lr})
        add(tmp_path, 0.8, 0.5, "wasi", 0.8, options={"optimizer.lr": lr})
    found = compared(tmp_path)
    assert found["wasi", 0.02].ratio(PEAK) == pytest.approx(2.0)
    assert found["wasi", 0.05].ratio(PEAK) == pytest.approx(6.0)
    assert found["wasi", 0.02].remarks == []


def test_a_vanilla_with_other_training_options_serves_and_is_remarked(tmp_path):
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.7, 0.5, "wasi", 0.8, options={"optimizer.lr": 0.02})
    add(tmp_path, 0.7, 0.5, "wasi", 0.8, options={"optimizer.lr": 0.03})
    comparison, other = compared(tmp_path)["wasi", 0.02], compared(tmp_path)["wasi", 0.03]
    assert comparison.ratio(PEAK) == pytest.approx(2.0)
    assert comparison.remarks == other.remarks == ["compared with a vanilla of another optimizer.lr (0.05)"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dataset.batch_size", 32),
        ("dataset.train_size", 7),
        ("device.name", "cuda"),
        ("model.weights", "w.safetensors"),
    ],
)
def test_a_vanilla_on_other_data_model_or_device_is_none(tmp_path, option, value):
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.8, 0.5, "wasi", 0.8, options={option: value})
    comparison = compared(tmp_path)["wasi", 0.05]
    assert comparison.baseline is None and comparison.ratio(PEAK) is None
    assert comparison.remarks == ["no completed vanilla run with the same model, data and device"]


def test_times_of_two_machines_have_no_ratio(tmp_path):
    other = copy.deepcopy(fakes.PROVENANCE)
    other["threads"]["torch"] = 2
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.8, 0.5, "wasi", 0.8, provenance=other)
    comparison = compared(tmp_path)["wasi", 0.05]
    assert comparison.ratio(STEP) is None
    assert comparison.ratio(PEAK) == pytest.approx(2.0)
    assert "no ratio of times" in comparison.remarks[0]


def test_another_scope_leaves_the_papers_accounting_without_ratio(tmp_path):
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.8, 0.5, "wasi", 0.8, options={"method.scope": "all"})
    comparison = compared(tmp_path)["wasi", 0.05]
    assert comparison.ratio(PAPER) is None
    assert comparison.ratio(PEAK) == pytest.approx(2.0)


def test_benchmarks_of_one_configuration_on_two_machines_keep_both_baselines(tmp_path):
    contents = []
    for processor, scale in (("Cortex-A76", 10), ("EPYC", 1)):
        ours, base = benchmarks.metrics(5 * scale, scale, 50), benchmarks.metrics(20 * scale, 4 * scale, 100)
        bench = benchmarks.content(fakes.config("wasi", 0.8), ours, base)
        bench["baseline"]["config"], bench["provenance"]["machine"]["processor"] = fakes.config(), processor
        contents.append(bench)
    benchmarks.write_sweep(tmp_path, contents)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    found = {(c.group.method, c.group.hardware): c.costs_beside for c in block.comparisons}
    for machine, step_ms in {"Cortex-A76, 4 threads": 200, "EPYC, 4 threads": 20}.items():
        assert found["wasi", machine] is found["vanilla", machine]
        assert found["wasi", machine].mean(STEP.metric) == step_ms
    assert len(baselines(read_jobs(tmp_path))) == 2


@pytest.mark.parametrize(
    "policy",
    [
        {"train.gradient_checkpointing": True},
        {"train.memory": "lean"},
        {"train.memory": "lean", "train.chunk_size": 4, "train.segment_size": 1, "train.storage": "float32"},
        {"train.memory": "lean", "train.step_in_backward": True},
        {"train.memory": "lean", "train.memory_budget_mib": 900},
    ],
)
def test_vanilla_under_a_memory_policy_is_compared_with_plain_vanilla(policy, tmp_path):
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.8, 0.4, "vanilla", options=policy)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    ratios = [comparison.ratio(PEAK) for comparison in block.comparisons]
    assert sorted(ratios, key=str) == [pytest.approx(2.5), None]


@pytest.mark.parametrize(
    ("vanilla", "ours", "verdict"),
    [
        ((0.90, 0.91, 0.92), (0.905, 0.93, 0.91), "within noise"),
        ((0.90, 0.91, 0.92), (0.905, 0.9152, 0.9249), "differs"),  # by seed, though their ranges overlap
        ((0.90, 0.91, 0.92), (0.905, 0.9152, 0.9249, 0.91), "differs"),  # over the three seeds that both have
        ((0.90, 0.901, 0.902), (0.80, 0.801, 0.803), "differs"),
        ((0.90, 0.901, 0.902), (0.80, 0.801, 0.802), "no spread"),
        ((0.90,), (0.80, 0.801, 0.802), "n=1, no spread"),
        ((0.90, 0.91), (0.80,), "n=1, no spread"),
    ],
)
def test_verdict_on_the_difference_of_accuracy(tmp_path, vanilla, ours, verdict):
    for seed, acc in enumerate(vanilla):
        add(tmp_path, acc, 1.0, "vanilla", None, seed)
    for seed, acc in enumerate(ours):
        add(tmp_path, acc, 1.0, "wasi", 0.8, seed)
    assert compared(tmp_path)["wasi", 0.05].verdict == verdict


@pytest.mark.parametrize(
    ("first", "difference", "remark"), [(1, -0.02, "difference over the 2 seeds"), (2, 0.0, "other seeds")]
)
def test_a_difference_is_over_equal_seeds_where_one_row_has_all_of_the_others(tmp_path, first, difference, remark):
    for seed, acc in enumerate((0.80, 0.90, 0.95)):
        add(tmp_path, acc, 1.0, "vanilla", None, seed)
    for seed, acc in zip((first, first + 1), (0.88, 0.93) if first == 1 else (0.88, 0.88667), strict=True):
        add(tmp_path, acc, 1.0, "wasi", 0.8, seed)
    found = compared(tmp_path)["wasi", 0.05]
    assert found.accuracy_difference == pytest.approx(difference, abs=1e-4)
    assert found.remarks[-1].startswith(remark)


def test_without_vanilla_rows_that_differ_in_one_option_are_compared(tmp_path):
    for seed, acc in enumerate((0.80, 0.81, 0.82)):
        add(tmp_path, acc, 1.0, "wsi", 0.8, seed, options={"method.update": "subspace"})
        apart = (0.002, -0.004, 0.003)[seed]
        add(tmp_path, acc + apart, 2.0, "wsi", 0.8, seed, options={"method.update": "svd"})
        add(tmp_path, acc - 0.1, 1.0, "wsi", 0.4, seed, options={"method.update": "svd"})
    (block,) = blocks_of(read_runs([tmp_path])[0])
    alone, first, second = block.comparisons  # 0.4, 0.8 subspace, 0.8 svd
    assert alone.baseline is None and first.baseline is None and second.baseline is first.group
    assert second.ratio(PEAK) == 0.5 and second.verdict == "within noise" and not second.of_vanilla
    (remark,) = second.remarks
    assert remark.endswith("compared with wsi of method.update=subspace, alike in all else")


def test_a_cost_within_noise(tmp_path):
    for seed, (ours, theirs) in enumerate(((1.0, 1.1), (1.3, 1.2), (1.2, 1.0))):
        add(tmp_path, 0.8, theirs, "vanilla", None, seed, **{PEAK.metric: 400.0})
        add(tmp_path, 0.8, ours, "wasi", 0.8, seed, **{PEAK.metric: 300.0})
    comparison = compared(tmp_path)["wasi", 0.05]
    assert comparison.within_noise(STEP) and not comparison.within_noise(PEAK)
    single = tmp_path / "single"
    add(single, 0.8, 1.0, "vanilla")
    add(single, 0.8, 1.1, "wasi", 0.8)
    assert not compared(single)["wasi", 0.05].within_noise(STEP)


def test_costs_that_are_equal_for_all_seeds_are_the_same_and_not_within_noise(tmp_path):
    for seed, noise in enumerate((0.01, -0.01)):
        add(tmp_path, 0.9, 1.0, "vanilla", None, seed)
        add(tmp_path, 0.9 + noise, 1.0, "wasi", 0.8, seed, **{STEP.metric: 100 + 100 * noise})
    found = compared(tmp_path)["wasi", 0.05]
    assert found.ratio(FLOPS) == found.ratio(PEAK) == 1
    assert not found.within_noise(FLOPS) and not found.within_noise(PEAK) and found.within_noise(STEP)
    text = " ".join(write_report([tmp_path]).split())
    assert "(time of a training step: within noise; peak memory of a training step" in text
    assert "work of a training step: the same)" in text


def test_test_accuracy_is_compared_where_every_run_has_it(tmp_path):
    add(tmp_path, 0.8, 1.0, "vanilla", **{"test/acc": 0.7})
    add(tmp_path, 0.9, 1.0, "wasi", 0.8, **{"test/acc": 0.6})
    assert compared(tmp_path)["wasi", 0.05].accuracy_difference == pytest.approx(-0.1)
    add(tmp_path, 0.9, 1.0, "wasi", 0.4)  # without a test split
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert block.accuracy == "val/acc"
    assert [c.accuracy_difference for c in block.comparisons] == pytest.approx([None, 0.1, 0.1])


def test_a_vanilla_with_another_optimizer_is_compared_with_the_best_ordinary_one(tmp_path):
    galore = {"optimizer._target_": "wasi.training.baselines.galore"}
    for seed in range(3):
        add(tmp_path, 0.8, 1.0, "vanilla", None, seed, options={"optimizer.lr": 0.1})
        add(tmp_path, 0.7, 1.0, "vanilla", None, seed)
        add(tmp_path, 0.6, 2.0, "vanilla", None, seed, options={"optimizer._target_": "torch.optim.AdamW"})
        add(tmp_path, 0.9, 0.5, "vanilla", None, seed, options={"optimizer.lr": 0.3, **galore})
    (block,) = blocks_of(read_runs([tmp_path])[0])
    found = {
        (c.group.options["optimizer._target_"].rpartition(".")[2], c.group.options["optimizer.lr"]): c
        for c in block.comparisons
    }
    for rate in (0.05, 0.1):  # a sweep over learning rates has no vanilla that all others must be held against
        assert found["SGD", rate].is_own_baseline
    best = found["SGD", 0.1].group
    assert found["AdamW", 0.05].baseline is best and found["galore", 0.3].baseline is best
    assert found["galore", 0.3].ratio(PEAK) == pytest.approx(2.0) and found["galore", 0.3].pairing.n == 3


def test_the_baseline_is_never_chosen_by_test_accuracy(tmp_path):
    for rate, val, test in ((0.1, 0.9, 0.5), (0.2, 0.8, 0.95)):
        options = {"optimizer.lr": rate}
        add(tmp_path, val, 1.0, "vanilla", options=options, **{"test/acc": test})
    add(tmp_path, 0.7, 1.0, "wasi", 0.8, options={"optimizer.lr": 0.3}, **{"test/acc": 0.7})
    assert compared(tmp_path)["wasi", 0.3].baseline.options["optimizer.lr"] == 0.1


def test_every_output_compares_with_the_most_accurate_vanilla_of_another_optimization(tmp_path):
    """By its learning rate alone; another scope is another thing to compare with."""
    for seed in range(3):
        noise = 0.001 * seed
        add(tmp_path, 0.80 + noise, 1.0, "vanilla", None, seed)
        add(tmp_path, 0.90 + noise, 2.0, "vanilla", None, seed, options={"optimizer.lr": 0.01})
        add(tmp_path, 0.95 + noise, 1.0, "vanilla", None, seed, options={"method.scope": "all"})
        add(tmp_path, 0.85 + 2 * noise, 0.5, "wasi", 0.8, seed)
    write_report([tmp_path])
    text = (tmp_path / "report.md").read_text()
    remark = "compared with a vanilla of another optimizer.lr (0.01)"
    assert "-0.0490" in text and "(4.00×)" in text and remark.replace("_", "\\_") in text
    assert "No WASI configuration keeps the accuracy of “vanilla, mlp, lr=0.01”" in text
    assert "“wasi 0.8, mlp” (−4.90 points" in text


def bench_beside(folder, configuration, baseline):
    """A benchmark of one configuration in turns with another: a step 1.6 times as fast, with 1.5 times less memory."""
    bench = benchmarks.content(configuration, benchmarks.metrics(50, 5, 100), benchmarks.metrics(80, 10, 150))
    bench["baseline"]["config"] = baseline
    (folder / "bench").mkdir()
    benchmarks.write_sweep(folder / "bench", [bench])


def test_costs_measured_in_turns_stay_beside_a_more_accurate_vanilla(tmp_path):
    """The one with momentum was trained only, on another machine."""
    pc = copy.deepcopy(fakes.PROVENANCE) | {"machine": {"processor": "EPYC"}}
    momentum = {"optimizer.momentum": 0.9}
    for seed in range(3):
        add(tmp_path, 0.80 + 0.001 * seed, 1.0, "vanilla", None, seed, provenance=pc)
        add(tmp_path, 0.90 + 0.001 * seed, 3.0, "vanilla", None, seed, options=momentum, provenance=pc)
        add(tmp_path, 0.85 + 0.002 * seed, 0.5, "wasi", 0.8, seed, provenance=pc)
    bench_beside(tmp_path, fakes.config("wasi", 0.8), fakes.config())
    found = compared(tmp_path)["wasi", 0.05]
    assert found.accuracy_difference == pytest.approx(-0.049) and found.baseline.options["optimizer.momentum"] == 0.9
    assert found.ratio(STEP) == pytest.approx(1.6) and found.ratio(PEAK) == pytest.approx(1.5)
    assert found.remarks == [
        "compared with a vanilla of another optimizer.momentum (0.9)",
        "costs compared with a vanilla of another optimizer.momentum (0), measured under the same conditions",
    ]
    assert "beside “vanilla, momentum=0” (" in " ".join(write_report([tmp_path]).split())


def recipe_config(recipe, name, seed=0, **options):
    """A configuration of a recipe beside `tuned_vanilla`; options by their names in `optimizer`."""
    changed = {f"optimizer.{key}": value for key, value in options.items()}
    named = {"recipe": recipe, "bench": {"baseline_recipe": "tuned_vanilla"}}
    return fakes.config(name, 0.8, seed, changed) | named


def without_times(acc):
    return {name: value for name, value in fakes.metrics(acc).items() if not name.startswith(("time/", "memory/"))}


def test_tuned_runs_have_the_costs_of_a_benchmark_at_the_recipes_own_rates(tmp_path):
    for seed, noise in enumerate((0, 0.001, 0.002)):
        fakes.write(tmp_path, without_times(0.8 + noise), recipe_config("tuned_vanilla", "vanilla", seed, lr=0.1))
        fakes.write(tmp_path, without_times(0.7 + 2 * noise), recipe_config("wasi", "wasi", seed, lr=0.2))
    bench_beside(tmp_path, recipe_config("wasi", "wasi", lr=0.05), recipe_config("tuned_vanilla", "vanilla", lr=0.01))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    vanilla, wasi = block.comparisons
    assert [row_names(block), vanilla.is_own_baseline] == [["tuned_vanilla", "wasi"], True]
    assert wasi.accuracy_difference == pytest.approx(-0.099) and wasi.remarks == []
    assert wasi.in_turns(STEP)["p50"] == 1.6 and wasi.ratio(PEAK) == 1.5
    assert vanilla.group.mean(STEP.metric) == 80 and wasi.group.mean(STEP.metric) == 50


def test_of_a_grid_and_the_row_that_was_chosen_from_it_the_latter_is_the_baseline_and_has_the_costs(tmp_path):
    """A single run at another rate is more accurate, on validation images too, and may be so by luck."""
    for lr, accuracies in {0.1: (0.9,), 0.2: (0.8, 0.81, 0.82), 0.4: (0.7,)}.items():
        for seed, acc in enumerate(accuracies):
            fakes.write(tmp_path, without_times(acc), recipe_config("tuned_vanilla", "vanilla", seed, lr=lr))
            fakes.write(tmp_path, without_times(acc - 0.1), recipe_config("wasi", "wasi", seed, lr=lr))
    bench_beside(tmp_path, recipe_config("wasi", "wasi", lr=0.05), recipe_config("tuned_vanilla", "vanilla", lr=0.01))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert {one.baseline.options["optimizer.lr"] for one in block.comparisons} == {0.2}
    with_costs = [one.group for one in block.comparisons if one.group.cost(STEP) is not None]
    assert [(group.method, group.options["optimizer.lr"]) for group in with_costs] == [("vanilla", 0.2), ("wasi", 0.2)]
    text = " ".join(write_report([tmp_path]).split())
    assert "in accuracy, step time and peak memory together: “vanilla, lr=0.2” and “wasi 0.8, lr=0.2”. Not" in text


def test_several_benchmarks_of_one_machine_that_differ_by_learning_rate_are_as_good_as_one(tmp_path):
    fakes.write(tmp_path, without_times(0.8), recipe_config("tuned_vanilla", "vanilla", lr=0.7))
    for lr in (0.05, 0.1):
        rate = recipe_config("tuned_vanilla", "vanilla", lr=lr)
        (tmp_path / f"at_{lr}").mkdir()
        bench_beside(tmp_path / f"at_{lr}", rate, rate)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    trained = [one for one in block.comparisons if one.group.trained]
    assert len(trained) == 1 and trained[0].group.cost(STEP) == 50 and trained[0].is_own_baseline
    assert all(one.baseline is trained[0].group and one.remarks == [] for one in block.comparisons)


def test_a_row_that_is_its_own_baseline_is_compared_with_no_other_rows_costs(tmp_path):
    """It was benchmarked beside the recipe as it was before, with another momentum."""
    vanilla = recipe_config("tuned_vanilla", "vanilla", lr=0.1)
    fakes.write(tmp_path, without_times(0.8), vanilla)
    bench_beside(tmp_path, vanilla, recipe_config("tuned_vanilla", "vanilla", lr=0.1, momentum=-0.5))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    (own,) = (one for one in block.comparisons if one.group.trained)
    assert own.is_own_baseline and own.nearest is None and own.costs_beside is own.group


def test_a_baseline_of_another_machine_is_told_by_its_machine(tmp_path):
    pc = copy.deepcopy(fakes.PROVENANCE) | {"machine": {"processor": "EPYC"}}
    vanilla, wasi = recipe_config("tuned_vanilla", "vanilla", lr=0.1), recipe_config("wasi", "wasi", lr=0.2)
    fakes.write(tmp_path, without_times(0.8), vanilla)
    fakes.write(tmp_path, without_times(0.7), wasi)
    for provenance in (pc, fakes.PROVENANCE):
        bench = benchmarks.content(wasi, benchmarks.metrics(50, 5, 100), benchmarks.metrics(80, 10, 150))
        bench["baseline"]["config"], bench["provenance"] = vanilla, provenance
        folder = tmp_path / provenance["machine"]["processor"]
        folder.mkdir()
        benchmarks.write_sweep(folder, [bench])
    (block,) = blocks_of(read_runs([tmp_path])[0])
    remarks = {remark for one in block.comparisons for remark in one.remarks}
    words = "costs compared with tuned_vanilla on {}, 4 threads, measured under the same conditions"
    assert remarks == {words.format("EPYC"), words.format("Cortex-A76")}
    assert not any(name.endswith(", ") for name in row_names(block))


def test_a_trainings_process_is_not_compared_with_a_benchmarks(tmp_path):
    """Which does not evaluate; live tensors of a step are the same in both."""
    add(tmp_path, 0.8, 1.0, "vanilla")
    add(tmp_path, 0.8, 0.5, "lora")
    assert compared(tmp_path)["lora", 0.05].ratio(PROCESS) == 2
    bench_beside(tmp_path, fakes.config("wasi", 0.8), fakes.config())
    found = compared(tmp_path)
    assert found["lora", 0.05].ratio(PROCESS) is None and found["lora", 0.05].ratio(PEAK) == 0.75
    assert found["wasi", 0.05].ratio(PROCESS) == 1.5


def test_the_named_baseline_is_a_row_that_was_trained_and_costs_stay_beside_the_one_in_turns(tmp_path):
    """The recipe's file had another momentum when it was benchmarked."""
    fakes.write(tmp_path, without_times(0.8), recipe_config("tuned_vanilla", "vanilla", lr=0.1))
    fakes.write(tmp_path, without_times(0.7), recipe_config("wasi", "wasi", lr=0.2))
    before = recipe_config("tuned_vanilla", "vanilla", lr=0.1, momentum=-0.5)  # sorted before the trained row
    bench_beside(tmp_path, recipe_config("wasi", "wasi", lr=0.2), before)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    wasi = block.comparisons[-1]
    assert [len(group.trained) for group in block.groups] == [0, 1, 1]
    assert wasi.accuracy_difference == pytest.approx(-0.1) and wasi.in_turns(STEP)["p50"] == 1.6
    words = "costs compared with tuned_vanilla of another optimizer.momentum (-0.5), measured under the same conditions"
    assert wasi.remarks == [words]


@pytest.mark.parametrize(("seeds", "words"), [((0,), "the 1 seed that"), ((0, 1), "the 2 seeds that")])
def test_a_difference_over_some_of_the_seeds_is_remarked(tmp_path, seeds, words):
    for seed in range(5):
        add(tmp_path, 0.8 + 0.01 * seed**2, 1.0, "vanilla", None, seed)
    for seed in seeds:
        add(tmp_path, 0.7, 1.0, "wasi", 0.8, seed)
    assert compared(tmp_path)["wasi", 0.05].remarks == [f"difference over {words} both rows have, of 5"]


def test_a_sweep_of_recipes_is_compared_with_the_recipe_that_it_names(tmp_path):
    def one(acc, name, recipe, lr):
        named = {"recipe": recipe, "bench": {"baseline_recipe": "tuned_vanilla"}}
        fakes.write(tmp_path, fakes.metrics(acc), fakes.config(name, 0.8, 0, {"optimizer.lr": lr}) | named)

    one(0.9, "vanilla", "tuned_vanilla", 0.01)
    one(0.8, "vanilla", "vanilla", 0.05)  # alike in more options
    one(0.7, "wasi", "wasi", 0.05)
    (block,) = blocks_of(read_runs([tmp_path])[0])
    found = {comparison.group.recipe: comparison for comparison in block.comparisons}
    assert found["wasi"].accuracy_difference == pytest.approx(-0.2) and found["wasi"].remarks == []
    assert found["vanilla"].accuracy_difference == pytest.approx(-0.1) and found["tuned_vanilla"].is_own_baseline


def test_a_benchmark_beside_a_recipe_that_is_no_vanilla_has_its_ratios_in_turns(tmp_path):
    named = {"bench": {"baseline_recipe": "lora_r8"}}
    wasi, lora = fakes.config("wasi", 0.8) | {"recipe": "wasi_0.8"}, fakes.config("lora") | {"recipe": "lora_r8"}
    bench = benchmarks.content(wasi | named, benchmarks.metrics(50, 5, 100), benchmarks.metrics(80, 10, 150))
    bench["baseline"]["config"] = lora | named
    measured = bench["ratio"][STEP.metric] = {"p50": 1.7, "low": 1.65, "high": 1.75}  # and not 80 / 50
    benchmarks.write_sweep(tmp_path, [bench])
    found = compared(tmp_path)["wasi", 0.05]
    assert found.baseline.recipe == "lora_r8" and found.in_turns(STEP) == measured and found.ratio(STEP) == 1.7
    text = " ".join(write_report([tmp_path]).split())
    without = "No saving is stated, as rows are compared with lora_r8 (bench.baseline_recipe), not with vanilla."
    assert without in text and "for want of" not in text


@pytest.mark.parametrize("apart", [(0.002, -0.004, 0.003), (-0.1, -0.102, -0.099)])
def test_where_rows_are_compared_with_a_twin_no_sentence_or_heading_says_otherwise(tmp_path, apart):
    pytest.importorskip("vl_convert")
    for seed, acc in enumerate((0.80, 0.81, 0.82)):
        add(tmp_path, acc, 1.0, "wsi", 0.8, seed, options={"method.update": "subspace"})
        add(tmp_path, acc + apart[seed], 2.0, "wsi", 0.8, seed, options={"method.update": "svd"})
    printed = " ".join(write_report([tmp_path]).split())
    page = (tmp_path / "report.html").read_text(encoding="utf-8").partition("<script")[0]
    outputs = {
        printed: "×: the baseline's cost / this",
        (tmp_path / "report.md").read_text(encoding="utf-8"): "A number with × is the baseline's cost divided",
        page: "Below a cost: the baseline's / this",
    }
    true = ("for want of a vanilla run", "no vanilla to compare with", "no completed vanilla run", "Δ vanilla, Δ b",
            "that of vanilla or of the row that")  # fmt: skip
    for text, words in outputs.items():
        assert words in text and "Δ baseline" in text
        assert re.findall("vanilla.{40}", re.sub("|".join(true), "", text)) == []
