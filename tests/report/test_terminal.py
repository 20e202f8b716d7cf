import pytest

from tests.bench import jobs as benchmarks
from tests.report import fakes
from wasi.report.blocks import blocks_of
from wasi.report.gathered import gather
from wasi.report.load import read_runs
from wasi.report.markdown import markdown
from wasi.report.terminal import WIDTH, block_text, legend
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Row
from wasi.runs.tuning_file import write_tuning


def text(folder):
    (block,) = blocks_of(read_runs([folder])[0])
    return block_text(block)


def row(table, *starts):
    rows = [line for line in table.splitlines() if line.startswith("  ")]
    (line,) = [line for line in rows if line.split()[: len(starts)] == list(starts)]
    return line.split()


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_a_sweep_fits_the_terminal_and_keeps_what_the_comparison_needs(tmp_path, seeds):
    fakes.sweep(tmp_path, seeds=seeds)
    table = text(tmp_path)
    assert max(map(len, [*table.splitlines(), *legend([table]).splitlines()])) <= WIDTH
    for title in ("val acc", "train MiB", "proc MiB", "step ms", "infer ms"):
        assert title in table


def test_values_ratios_and_heading(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.7, 0.25), fakes.config("wasi", 0.8))
    table = text(tmp_path)
    assert table.splitlines()[0] == "vit_micro on digits: scope mlp, batch 64, 8 epochs, SGD lr 0.05, seed 0"
    values = ["0.7000", "-0.1000", "(n=1)", "100.0", "4.00×", "225.0", "4.00×", "25.00", "4.00×"]
    assert row(table, "wasi") == ["wasi", "0.8", "0.8", "1", *values, "2.500", "4.00×", "●"]
    assert row(table, "vanilla")[:6] == ["vanilla", "-", "-", "1", "0.8000", "-"]


def test_not_measured_is_a_dash_and_zero_is_zero(tmp_path):
    peak, step = "memory/train_peak_mib", "time/train_step_ms_p50"
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config())
    fakes.write(tmp_path, fakes.metrics(0.0, **{peak: None, step: 0.0}), fakes.config("wasi", 0.8))
    wasi = row(text(tmp_path), "wasi")
    assert wasi[4:8] == ["0.0000", "-0.8000", "(n=1)", "-"]
    assert wasi[10] == "0"  # after the process and its ratio


def test_spread_and_noise_are_marked(tmp_path):
    for seed, acc in enumerate((0.90, 0.91, 0.92)):
        fakes.write(tmp_path, fakes.metrics(acc), fakes.config("vanilla", None, seed))
        fakes.write(tmp_path, fakes.metrics(acc - 0.002 + 0.003 * (seed % 2)), fakes.config("wasi", 0.8, seed))
        fakes.write(tmp_path, fakes.metrics(acc - 0.3 - 0.001 * (seed % 2)), fakes.config("wasi", 0.4, seed))
    table = text(tmp_path)
    assert "0.9100±0.0100" in table
    assert "≈" in row(table, "wasi", "0.8") and "≈" not in row(table, "wasi", "0.4")


def test_a_difference_that_is_the_same_for_every_seed_is_not_tested_and_says_why(tmp_path):
    for seed, acc in enumerate((0.90, 0.91, 0.92)):
        fakes.write(tmp_path, fakes.metrics(acc), fakes.config("vanilla", None, seed))
        fakes.write(tmp_path, fakes.metrics(acc - 0.3), fakes.config("wasi", 0.8, seed))
    table = text(tmp_path)
    assert "-0.3000 (no spread)" in table and "≈" not in row(table, "wasi", "[1]")
    assert "[1] the difference is the same for all 3 seeds" in table


def test_a_differing_option_has_its_column(tmp_path):
    for lr in (0.02, 0.05):
        fakes.write(tmp_path, fakes.metrics(0.8), fakes.config(options={"optimizer.lr": lr}))
    lines = text(tmp_path).splitlines()
    (titles,) = [line.split() for line in lines if line.split()[0] == "method"]
    assert "lr" in titles and "lr" not in lines[0].split()
    assert [line.split()[1] for line in lines if line.split()[0] == "vanilla"] == ["0.02", "0.05"]


def test_a_remark_is_tied_to_its_row(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.8), fakes.config("wasi", 0.8))
    table = text(tmp_path)
    assert "wasi [1]" in table
    assert "[1] no completed vanilla run" in table.splitlines()[-1]


@pytest.mark.parametrize("options", [1, 4])
def test_what_tuning_chose_is_told_within_the_terminal(tmp_path, options):
    rows, point = [], {f"method.option_with_a_long_name_{number}": 0.125 for number in range(options)}
    for seed in range(3):
        for name in ("vanilla", "wasi"):
            path = fakes.write(tmp_path, fakes.metrics(0.8 + 0.01 * seed), fakes.config(name, 0.8, seed))
            rows += [TunedRow(Row(name, {}, [point]), [path.parent.name], [(0.8,)], ["completed"])] * (seed == 0)
    write_tuning(tmp_path, "0", rows, ["val/acc"])
    lines = text(tmp_path).splitlines()
    assert max(map(len, lines)) <= WIDTH
    output = " ".join(" ".join(lines).split())
    assert output.count(", ".join(f"{key}=0.125" for key in point)) == 2


def test_a_recipes_name_stands_for_its_options_where_there_is_no_room(tmp_path):
    for seed in range(3):
        for name, recipe, rate in (("vanilla", "small_vanilla", 0.0015), ("wasi", "small_wasi", 0.006)):
            config = fakes.config(name, 0.8, seed) | {"recipe": recipe}
            config["optimizer"] = config["optimizer"] | {"lr": rate}
            config["scheduler"] = config["scheduler"] | {"warmup_epochs": int(name == "wasi")}
            fakes.write(tmp_path, fakes.metrics(0.8 + 0.01 * seed), config)
    table = text(tmp_path)
    assert max(map(len, table.splitlines())) <= WIDTH
    (titles,) = [line.split() for line in table.splitlines() if "recipe" in line]
    assert titles[:3] == ["method", "recipe", "n"]
    assert row(table, "wasi", "[1]", "small_wasi")


def test_rows_of_other_seeds_say_that_they_are_not_compared_in_pairs(tmp_path):
    for seed in range(3):
        fakes.write(tmp_path, fakes.metrics(0.8 + 0.01 * seed), fakes.config("vanilla", None, seed))
        fakes.write(tmp_path, fakes.metrics(0.8 + 0.01 * seed), fakes.config("wasi", 0.8, seed))
        fakes.write(tmp_path, fakes.metrics(0.8 + 0.01 * seed), fakes.config("wasi", 0.4, seed + 1))
    table = text(tmp_path)
    assert row(table, "wasi", "0.8") and row(table, "wasi", "[1]")[2] == "0.4"
    assert "[1] other seeds than those" in table and "unpaired" in table


def test_costs_carry_their_noise(tmp_path):
    for seed, cost in enumerate((0.9, 1.0, 1.1)):
        fakes.write(tmp_path, fakes.metrics(0.8, cost), fakes.config("vanilla", None, seed))
        fakes.write(tmp_path, fakes.metrics(0.8, cost - 0.02), fakes.config("wasi", 0.8, seed))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert "1.02×≈" in row(block_text(block), "wasi")
    text = markdown(gather([tmp_path]), [[]])
    assert "98.00±10 (1.02×≈)" in text and "100.0±10 |" in text


def test_the_legend_explains_what_there_is_and_nothing_else(tmp_path):
    fakes.write(tmp_path, fakes.metrics(0.9), fakes.config("vanilla"))
    (block,) = blocks_of(read_runs([tmp_path])[0])
    assert legend([block_text(block)]) == ""
    assert "eps W" in legend(["method  eps W  n"]) and "eps" not in legend(["method  n", "recipe  n"])


@pytest.mark.parametrize("in_turns", [False, True])
def test_the_legends_say_how_the_ratios_that_there_are_were_judged(tmp_path, in_turns):
    if in_turns:
        ours, theirs = benchmarks.metrics(99, 10, 100), benchmarks.metrics(100, 10, 150)
        bench = benchmarks.content(benchmarks.config("wasi", 0.8), ours, theirs)
        bench["ratio"] |= {name: {"p50": 1.0} for name in ours if name not in bench["ratio"]}
        benchmarks.write_sweep(tmp_path, [bench])
    else:
        for seed, cost in enumerate((0.9, 1.0, 1.1)):
            fakes.write(tmp_path, fakes.metrics(0.8, cost), fakes.config("vanilla", None, seed))
            fakes.write(tmp_path, fakes.metrics(0.8, cost - 0.02), fakes.config("wasi", 0.8, seed))
    report = gather([tmp_path])
    (block,) = report.blocks
    short, long = legend([block_text(block)], block.comparisons), markdown(report, [[]])
    for text in (short, long):
        assert ("t-test over " in text.replace("the ", "")) is not in_turns
        assert ("measured in turns" in text or "measured the two in turns" in text) is in_turns
