import json

import pytest

from tests.bench import jobs
from tests.report import fakes
from wasi.config import declared
from wasi.report.blocks import blocks_of, row_names
from wasi.report.columns import PROCESS
from wasi.report.fields import fields_of
from wasi.report.groups import identity, short_names, shown_option
from wasi.report.load import read_runs
from wasi.report.series import series_of


def blocks(folder):
    return blocks_of(read_runs([folder])[0])


def add(folder, *arguments, acc=0.9, options=None, **fields):
    fakes.write(folder, fakes.metrics(acc), fakes.config(*arguments, options=options), **fields)


@pytest.mark.parametrize("name", ["vanilla", "wasi", "svd_llm", "lora"])
def test_runs_that_differ_by_seed_alone_are_one_group(tmp_path, name):
    for seed in (10, 0, 2):
        add(tmp_path, name, 0.8, seed)
    (block,) = blocks(tmp_path)
    (group,) = block.groups
    assert group.seeds == [0, 2, 10] and block.differing == []


@pytest.mark.parametrize(
    "options",
    [
        {"sweep": "another"},
        {"logger.name": "wandb"},
        {"dataset.root": "elsewhere"},
        {"train.checkpoint_every": 3},
        {"rank.weight_epsilon": 0.4},  # not read by vanilla
        {"optimizer.momentum": 0},  # 0 and 0.0
    ],
)
def test_what_cannot_change_a_result_does_not_divide(tmp_path, options):
    add(tmp_path, "vanilla", None, 0)
    add(tmp_path, "vanilla", None, 1, options=options)
    (block,) = blocks(tmp_path)
    assert len(block.groups) == 1


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("optimizer.lr", (0.02, 0.05)),
        ("train.gradient_checkpointing", (False, True)),
        ("dataset.train_size", (None, 500)),
        ("method.lora_rank", (4, 8)),
        ("rank.calibration_batches", (1, 4)),
        ("model.weights", ("a/w.safetensors", "b/v.safetensors")),
    ],
)
def test_any_other_option_divides_and_becomes_a_column(tmp_path, option, values):
    for value in values:
        add(tmp_path, "svd_llm", 0.8, options={option: value})
    (block,) = blocks(tmp_path)
    assert len(block.groups) == 2
    assert block.differing == [option]


def test_an_option_that_only_one_method_has_is_no_difference(tmp_path):
    for name in ("vanilla", "svd_llm", "wasi", "lora"):
        add(tmp_path, name, 0.8)
    (block,) = blocks(tmp_path)
    assert [group.method for group in block.groups] == ["vanilla", "svd_llm", "wasi", "lora"]
    assert block.differing == []


def test_another_optimizer_is_one_column(tmp_path):
    add(tmp_path, "vanilla")
    adamw = {"_target_": "torch.optim.AdamW", "lr": 5e-4, "betas": [0.9, 0.999]}
    add(tmp_path, "vanilla", options={"optimizer": adamw})
    (block,) = blocks(tmp_path)
    assert block.differing == ["optimizer._target_"]
    assert short_names(block.differing) == {"optimizer._target_": "optimizer"}
    assert [shown_option(group, "optimizer._target_") for group in block.groups] == ["AdamW", "SGD"]


def test_a_difference_behind_equal_labels_is_shown(tmp_path):
    for epsilon in (0.6, 0.8):  # with a keep ratio the threshold is no label
        add(tmp_path, "svd_llm", epsilon, options={"method.keep_ratio": 0.5})
    (block,) = blocks(tmp_path)
    assert block.differing == ["method.weight_epsilon"] and not block.alike


def test_equal_options_and_seed_but_other_files_stand_apart(tmp_path):
    add(tmp_path, "wasi", 0.8, acc=0.9, fingerprint="a" * 64)
    add(tmp_path, "wasi", 0.8, acc=0.5, fingerprint="b" * 64)
    (block,) = blocks(tmp_path)
    assert len(block.groups) == 2 and block.alike


def test_weights_of_one_name_in_two_folders_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        add(tmp_path, "wasi", 0.8, options={"model.weights": f"{folder}/w.safetensors"})
    (block,) = blocks(tmp_path)
    assert len(block.groups) == 2 and block.alike


def test_models_data_and_unusual_weights_are_blocks_of_their_own(tmp_path):
    add(tmp_path, "wasi", 0.8)
    add(tmp_path, "wasi", 0.8, options={"model.weights": "surrogate"})
    add(tmp_path, "wasi", 0.8, options={"dataset.name": "image_folder", "dataset.root": "birds"})
    add(tmp_path, "wasi", 0.8, options={"dataset.name": "image_folder", "dataset.root": "cars"})
    assert [(block.model, block.dataset) for block in blocks(tmp_path)] == [
        ("vit_micro", "digits"),
        ("vit_micro (surrogate weights)", "digits"),
        ("vit_micro", "image_folder (birds)"),
        ("vit_micro", "image_folder (cars)"),
    ]


def test_groups_are_ordered_by_method_and_threshold(tmp_path):
    for name, epsilon in (("wasi", 0.9), ("asi", 0.4), ("wasi", 0.4), ("vanilla", None), ("wasi", 1.0)):
        add(tmp_path, name, epsilon)
    (block,) = blocks(tmp_path)
    order = [(group.method, group.config["method"].get("weight_epsilon")) for group in block.groups]
    assert order == [("vanilla", None), ("wasi", 0.4), ("wasi", 0.9), ("wasi", 1.0), ("asi", None)]


def test_only_completed_runs_are_averaged(tmp_path):
    add(tmp_path, "wasi", 0.8, 0, acc=0.9)
    for seed, status in enumerate(("failed", "diverged", "interrupted", "running"), start=1):
        add(tmp_path, "wasi", 0.8, seed, acc=0.1, status=status)
    (block,) = blocks(tmp_path)
    (group,) = block.groups
    assert group.mean("val/acc") == 0.9 and group.std("val/acc") is None


@pytest.mark.parametrize(("second", "shown"), [(None, None), (700.0, 600.0)])
def test_the_memory_of_a_process_is_shown_if_every_run_has_it(tmp_path, second, shown):
    for seed, mib in enumerate((500.0, second)):
        metrics = fakes.metrics(0.9, **{"memory/process_rss_peak_mib": mib})
        fakes.write(tmp_path, metrics, fakes.config("wasi", 0.8, seed))
    ((group,),) = (block.groups for block in blocks(tmp_path))
    assert group.cost(PROCESS) == shown


def benchmarked(folder, recipe, lr, warmup, **bench):
    """A benchmark whose baseline has its schedule, and as recipe `bench.baseline_recipe`, as `bench.json` has it."""
    named = {"recipe": recipe, "bench": {"baseline": "vanilla", **bench}}
    changed = {"optimizer.lr": lr, "scheduler.warmup_epochs": warmup}
    beside = fakes.config("vanilla", options={"optimizer.lr": 0.01, "scheduler.warmup_epochs": warmup})
    beside |= named | {"recipe": bench.get("baseline_recipe")}
    ours, vanilla = jobs.metrics(60, 5, 60), jobs.metrics(100, 10, 90)
    job = jobs.content(fakes.config("wasi", 0.8, options=changed) | named, ours, vanilla)
    job["baseline"]["config"] = beside
    job["fingerprint"], job["provenance"]["device"] = recipe, "cpu"
    (folder / recipe).mkdir()
    (folder / recipe / "bench.json").write_text(json.dumps(job))


def test_a_baseline_is_no_row_of_the_recipe_that_it_was_measured_beside(tmp_path):
    """Nor a second row for a schedule, of which a step knows nothing."""
    for recipe, lr, warmup in (("wasi_a", 0.1, 0), ("wasi_b", 0.2, 1)):
        benchmarked(tmp_path, recipe, lr, warmup, baseline_recipe="tuned_vanilla")
    (block,) = blocks(tmp_path)
    assert row_names(block) == ["tuned_vanilla", "wasi_a", "wasi_b"]
    assert [one.label for one in series_of(block)] == ["tuned_vanilla", "wasi_a", "wasi_b"]


def test_a_baseline_without_a_recipe_has_the_methods_name_beside_recipes(tmp_path):
    for recipe, lr in (("wasi_a", 0.1), ("wasi_b", 0.2)):
        benchmarked(tmp_path, recipe, lr, 0)
    (block,) = blocks(tmp_path)
    assert row_names(block) == ["vanilla", "wasi_a", "wasi_b"]
    assert [one.label for one in series_of(block)] == ["vanilla", "wasi_a", "wasi_b"]


@pytest.mark.parametrize("benchmarks", [1, 2])
def test_recipes_that_differ_by_their_schedule_alone_keep_their_own_benchmarks(tmp_path, benchmarks):
    """With a single benchmark both have that one, as a step is the same under either schedule."""
    recipes = {"wasi_a": 0, "wasi_b": 1}
    for place, (recipe, warmup) in enumerate(recipes.items()):
        changed = {"optimizer.lr": 0.1, "scheduler.warmup_epochs": warmup}
        trained = fakes.config("wasi", 0.8, 0, changed) | {"recipe": recipe}
        fakes.write(tmp_path, {"val/acc": 0.8 + 0.1 * place}, trained)
        if place < benchmarks:
            benchmarked(tmp_path, recipe, 0.1, warmup)
    (block,) = blocks(tmp_path)
    rows = [group for group in block.groups if group.trained]
    found = [(group.recipe, group.mean("val/acc"), group.bench.config["recipe"]) for group in rows]
    assert found == [("wasi_a", 0.8, "wasi_a"), ("wasi_b", 0.9, "wasi_b" if benchmarks == 2 else "wasi_a")]
    assert [group.method for group in block.groups] == ["vanilla", "wasi", "wasi"]


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    """A method whose YAML takes thresholds from `rank` under names of its own; a resolved section, by its value."""
    (tmp_path / "conf").mkdir()
    text = "name: own\nscope: mlp\nkept: ${rank.weight_epsilon}\ninputs:\n  share: ${rank.activation_epsilon}\n"
    (tmp_path / "conf" / "own.yaml").write_text(text)
    monkeypatch.setattr(declared, "_CONF", tmp_path / "conf")
    caches = (declared.appearance, declared.rank_option_paths, declared.null_means)
    for cached in caches:
        cached.cache_clear()
    yield lambda epsilon: {"name": "own", "scope": "mlp", "kept": epsilon, "inputs": {"share": epsilon / 2}}
    for cached in caches:
        cached.cache_clear()


def test_thresholds_are_known_under_the_names_that_a_method_gives_them(tmp_path, own_method):
    for epsilon in (0.8, 0.4):
        fakes.write(tmp_path / "sweep", fakes.metrics(0.9), fakes.config() | {"method": own_method(epsilon)})
    (block,) = blocks(tmp_path / "sweep")
    assert [identity(group)[2:] for group in block.groups] == [("0.4", "0.2"), ("0.8", "0.4")]
    assert block.differing == []


def test_rows_that_differ_by_a_number_are_in_the_order_of_its_size(tmp_path):
    for lr in (0.0001, 1e-5, 0.02):
        for batch_size in (128, 32):
            add(tmp_path, "vanilla", options={"optimizer.lr": lr, "dataset.batch_size": batch_size})
    (block,) = blocks(tmp_path)
    order = [(group.options["dataset.batch_size"], group.options["optimizer.lr"]) for group in block.groups]
    assert order == [(32, 1e-5), (32, 0.0001), (32, 0.02), (128, 1e-5), (128, 0.0001), (128, 0.02)]


def test_a_method_without_a_scope_has_no_empty_part_in_its_name(tmp_path):
    add(tmp_path, "wasi", 0.8)
    own = fakes.config("wasi", 0.8)
    own["method"] = {"name": "my_own", "_target_": "my.Method"}
    fakes.write(tmp_path, fakes.metrics(0.9), own)
    (block,) = blocks(tmp_path)
    assert row_names(block) == ["wasi 0.8, mlp", "my_own"]
    (scope,) = (f for f in fields_of(block) if f.title == "scope")
    assert scope.values == ["mlp", "-"]


def test_rows_of_one_configuration_on_two_machines_are_named_by_what_differs(tmp_path):
    for processor, threads in (("Cortex-A76", 2), ("Cortex-A76", 4)):
        machine = {"processor": processor, "architecture": "aarch64"}
        provenance = fakes.PROVENANCE | {"machine": machine, "threads": {"torch": threads}}
        for epsilon in (0.6, 0.8):
            add(tmp_path, "wasi", epsilon, provenance=provenance, fingerprint=f"{epsilon}")
    (block,) = blocks(tmp_path)
    assert row_names(block) == [f"wasi {epsilon}, {n} threads" for epsilon in (0.6, 0.8) for n in (2, 4)]
    assert [one.label for one in series_of(block)] == ["wasi, 2 threads", "wasi, 4 threads"]


def test_an_option_that_goes_with_the_method_is_in_no_name(tmp_path):
    add(tmp_path, "vanilla", None, 0, options={"optimizer.lr": 0.1})
    for epsilon in (0.4, 0.8):
        add(tmp_path, "wasi", epsilon, 0, options={"optimizer.lr": 0.05})
    (block,) = blocks(tmp_path)
    assert row_names(block) == ["vanilla", "wasi 0.4", "wasi 0.8"] and block.differing == ["optimizer.lr"]
    assert [one.label for one in series_of(block)] == ["vanilla", "wasi"]
    add(tmp_path, "vanilla", None, 0, options={"optimizer.lr": 0.2})
    (block,) = blocks(tmp_path)
    assert row_names(block) == ["vanilla, lr=0.1", "vanilla, lr=0.2", "wasi 0.4", "wasi 0.8"]


def test_a_model_with_benchmarks_comes_first(tmp_path):
    add(tmp_path / "trained", "vanilla", None, 0)
    job = jobs.content(jobs.config("wasi", 0.8), jobs.metrics(60, 5, 60), jobs.metrics(100, 10, 90))
    jobs.write_sweep(tmp_path, [job])
    assert [block.title.partition(" ")[0] for block in blocks(tmp_path)] == ["vit_b_32", "vit_micro"]


def test_folders_of_one_name_are_blocks_of_their_own_and_told_apart(tmp_path):
    for root in ("/a/x/photos", "/b/x/photos", "/b/cars"):
        for name in ("vanilla", "wasi"):
            add(tmp_path, name, 0.8, options={"dataset.name": "image_folder", "dataset.root": root})
    blocks = blocks_of(read_runs([tmp_path])[0])
    assert [block.dataset for block in blocks] == [
        "image_folder (a/x/photos)", "image_folder (b/x/photos)", "image_folder (cars)",
    ]  # fmt: skip
    assert [len(block.groups) for block in blocks] == [2, 2, 2]
