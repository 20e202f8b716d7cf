"""The table of learning rates that were tried, made from kept runs."""

import pytest

from tests.report import fakes
from wasi.errors import UserError
from wasi.results.collect import collect
from wasi.results.documents import stale_documents, update
from wasi.results.grid import grid
from wasi.results.kept_result import read_kept

TRIED = {"wasi_0.8": {3e-5: 0.81, 7e-5: 0.87, 1.4e-4: 0.84}, "lora_r8": {1e-3: 0.88, 2e-3: 0.86, 4e-3: 0.85}}


def _run(folder, recipe, rate, accuracy, seed=233, **options):
    config = fakes.config(recipe.split("_")[0], None, seed, {"optimizer.lr": rate, **options}) | {"recipe": recipe}
    code = fakes.PROVENANCE | {"git_commit": "c" * 40}
    fakes.write(folder, {"val/acc": accuracy, "test/acc": 0.1}, config, provenance=code)


@pytest.fixture
def sweep(tmp_path):
    for recipe, rates in TRIED.items():
        for rate, accuracy in rates.items():
            _run(tmp_path / "sweep", recipe, rate, accuracy)
    return tmp_path / "sweep"


@pytest.fixture
def kept(sweep, tmp_path):
    def collected():
        collect([sweep], tmp_path / "results" / "g")
        return read_kept(tmp_path / "results" / "g")

    return collected


def test_the_best_rate_on_validation_images_is_bold_and_an_edge_is_told(kept):
    output = grid("g", kept())
    assert "| wasi_0.8 | SGD | 3e-05: 0.8100, **7e-05: 0.8700**, 0.00014: 0.8400 |" in output
    assert "| lora_r8 | SGD | **0.001: 0.8800** (on the edge), 0.002: 0.8600, 0.004: 0.8500 |" in output
    assert "Seed 233." in output and "0.1000" not in output


def test_accuracy_is_the_mean_over_equal_seeds(sweep, kept):
    for rate, accuracy in TRIED["lora_r8"].items():
        _run(sweep, "lora_r8", rate, accuracy + 0.02, seed=234)
    assert "**0.001: 0.8900** (on the edge), 0.002: 0.8700" in grid("g", kept())
    _run(sweep, "lora_r8", 1e-3, 0.9, seed=235)
    with pytest.raises(UserError, match="runs of row lora_r8 that differ in optimizer.lr alone"):
        grid("g", kept())


def test_rates_of_two_configurations_are_no_grid(sweep, kept):
    _run(sweep, "wasi_0.8", 1e-4, 0.9, **{"train.memory": "lean"})
    with pytest.raises(UserError, match="runs of row wasi_0.8 that differ in optimizer.lr alone"):
        grid("g", kept())


def test_a_document_has_it_between_its_markers(kept, tmp_path):
    kept()
    readme = tmp_path / "README.md"
    readme.write_text("<!-- grid: g -->\nearlier\n<!-- /grid -->\n")
    assert update(tmp_path) == [readme] and stale_documents(tmp_path) == {}
    assert "**7e-05: 0.8700**" in readme.read_text() and "earlier" not in readme.read_text()
    readme.write_text("<!-- grid: g -->\nearlier\n<!-- /table -->\n")
    with pytest.raises(UserError, match="grid=g: allowed is followed by <!-- /grid --> in README.md"):
        stale_documents(tmp_path)


def test_what_was_not_validated_is_no_part_of_it(sweep, kept):
    config = fakes.config("lora", None, 233, {"optimizer.lr": 8e-3}) | {"recipe": "lora_r8"}
    fakes.write(sweep, {"test/acc": 0.1}, config, provenance=fakes.PROVENANCE | {"git_commit": "c" * 40})
    with pytest.raises(UserError, match="an accuracy on validation images; lora_r8, seed 233, a run, has none"):
        grid("g", kept())


def test_rates_of_two_commits_are_refused(sweep, kept):
    config = fakes.config("lora", None, 233, {"optimizer.lr": 8e-3}) | {"recipe": "lora_r8"}
    fakes.write(sweep, {"val/acc": 0.1}, config, provenance=fakes.PROVENANCE | {"git_commit": "d" * 40})
    with pytest.raises(UserError, match="grid=g: allowed is results of one commit"):
        grid("g", kept())


def test_accuracies_that_mean_nothing_are_refused(sweep, kept):
    for rate in (1e-3, 2e-3):
        _run(sweep.parent / "sweep", "vanilla", rate, 0.1, **{"model.weights": "surrogate"})
    with pytest.raises(UserError, match="grid=g: allowed is results of one model.weights"):
        grid("g", kept())
    alone = [run for run in kept() if run.config["recipe"] == "vanilla"]
    with pytest.raises(UserError, match="accuracies that mean something, not those of surrogate weights"):
        grid("g", alone)
