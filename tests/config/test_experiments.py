"""Any two values of the experiments' grids compose and are valid; the paper's figures and tables have an experiment."""

from itertools import combinations, product
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from wasi.config.known_options import check_config
from wasi.config.validate import validate
from wasi.runs.tuning import grid_of

CONF = Path(__file__).resolve().parents[2] / "conf"
SWEEPS = {
    path.stem: content["hydra"]["sweeper"]["params"]
    for path in sorted((CONF / "experiment").glob("*.yaml"))
    if "params" in (content := yaml.safe_load(path.read_text())).get("hydra", {}).get("sweeper", {})
}
LARGE = [name for name, params in SWEEPS.items() if f"{name}_small" in SWEEPS]
FIGURES, TABLES = ("3a", "3b", "4", "5", "6", "8", "9", "10", "11"), ("1", "2", "3", "4")
PAPER = [*(f"fig{number}" for number in FIGURES), *(f"table{number}" for number in TABLES)]


def _config(name: str) -> str:
    """The main configuration of the command that the experiment's header gives."""
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    return "bench" if f"bench_device.py experiment={name}" in text else "config"


def _grid(name: str) -> list[list[str]]:
    """The overrides of its jobs; of its seeds, mere numbers, the first alone."""
    parser = OverridesParser.create()
    params = {key: str(value).split(",")[0] if key == "seed" else value for key, value in SWEEPS[name].items()}
    swept = parser.parse_overrides([f"{key}={value}" for key, value in params.items()])
    values = [
        [f"{one.get_key_element()}={value}" for value in one.sweep_string_iterator()]
        if one.is_sweep_override()
        else [one.input_line]
        for one in swept
    ]
    return [list(job) for job in product(*values)]


def _every_pair(grids: dict[str, list[list[str]]]) -> dict[str, list[list[str]]]:
    """Few jobs of each grid, in which each value is beside what its experiment sets, and each two values meet once.

    An option's value is refused for what it is, or for that of one other option. So two values that have met in the
    grid of one experiment need not meet in that of the next.
    """
    met: set[tuple[str, ...]] = set()
    few = {}
    for name, jobs in grids.items():
        pairs = [{*combinations(job, 2), *combinations(job, 1)} for job in jobs]
        missing = set().union(*pairs) - met
        met |= {pair for pair in missing if len(pair) == 2}
        kept: set[int] = set()
        while missing:
            best = max(range(len(jobs)), key=lambda index: len(pairs[index] & missing))
            kept.add(best)
            missing -= pairs[best]
        few[name] = [jobs[index] for index in sorted(kept)]
    return few


JOBS = _every_pair({name: _grid(name) for name in LARGE})


@pytest.mark.parametrize("name", LARGE)
def test_the_jobs_of_a_large_experiment_compose_and_are_valid(name, compose_config):
    for job in JOBS[name]:
        cfg = compose_config(f"experiment={name}", *job, config=_config(name), small=False)
        check_config(cfg)


@pytest.mark.parametrize("name", [f"{name}_small" for name in LARGE])
def test_a_small_experiment_asks_the_same_of_less(name, compose_config):
    """The small version sweeps over nothing that the large one does not, and its first and last jobs are valid."""
    large = name.removesuffix("_small")
    assert _config(name) == _config(large)
    assert SWEEPS[name].keys() - {"device.num_threads"} <= SWEEPS[large].keys()
    for key in SWEEPS[name].keys() & SWEEPS[large].keys() - {"dataset"}:
        assert set(str(SWEEPS[name][key]).split(",")) <= set(str(SWEEPS[large][key]).split(",")), key
    jobs = _grid(name)
    for job in (jobs[0], jobs[-1]):
        cfg = compose_config(f"experiment={name}", *job, config=_config(name), small=False)
        check_config(cfg)
        assert cfg.dataset.name in ("digits", "fashion_mnist", "synthetic") and not cfg.dataset.download
        assert cfg.model.name == "vit_micro" or cfg.model.weights == "random"


@pytest.mark.parametrize("part", PAPER)
def test_a_figure_or_table_of_the_paper_has_an_experiment_in_two_sizes(part):
    assert len([name for name in LARGE if name.startswith(f"{part}_")]) == 1


@pytest.mark.parametrize("name", ["fig11_more_baselines", "fig11_more_baselines_small"])
def test_every_baseline_is_tuned_over_both_optimizers(name, compose_config):
    cfg = compose_config(f"experiment={name}", with_hydra=True, small=False)
    assert cfg.hydra.sweeper._target_ == "hydra_plugins.tuned_sweeper.TunedSweeper"
    points = grid_of(cfg.tune, {})
    assert {point["optimizer"] for point in points} == {"sgd", "adamw"}
    assert all(sum(p["optimizer"] == name for p in points) >= 2 for name in ("sgd", "adamw"))
    validate(cfg)
