"""What a benchmark compares with: a method as its YAML has it, or a recipe with its own optimizer."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from tests.conftest import CONF, SMALL, files_read_once
from wasi.bench.baseline import baseline_config, identity, measured_config
from wasi.bench.sweep_callback import BenchCallback
from wasi.config.relevance import MEMORY_POLICY
from wasi.errors import UserError


@pytest.fixture
def job_config():
    """The configuration of a bench job, as the job sees it: Hydra knows its own."""
    with initialize_config_dir(str(CONF), version_base="1.3"), files_read_once():

        def composed(*overrides):
            cfg = compose("bench", [*SMALL, *overrides], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            with open_dict(cfg):
                del cfg["hydra"]
            return cfg

        yield composed


def test_a_method_keeps_the_optimizer_and_is_plain(job_config):
    cfg = job_config("recipe=lora_r8_lean", "optimizer.lr=0.5", "train.memory_budget_mib=900")
    baseline = baseline_config(cfg)
    assert (baseline.method.name, baseline.method.scope) == ("vanilla", "all")
    assert (baseline.optimizer.lr, baseline.train.memory) == (0.5, "plain")
    assert {option: OmegaConf.select(baseline, option) for option in MEMORY_POLICY} == MEMORY_POLICY
    assert baseline.recipe is None
    assert baseline_config(job_config("bench.baseline=null")) is None


def test_a_recipe_brings_its_optimizer_and_policy(job_config):
    cfg = job_config("recipe=vanilla_sgd", "bench.baseline_recipe=lora_r8_lean", "seed=5", "train.clip_norm=7")
    baseline = baseline_config(cfg)
    assert (baseline.method.name, baseline.method.lora_rank, baseline.method.seed) == ("lora", 8, 5)
    assert baseline.optimizer._target_ == "torch.optim.AdamW" and baseline.optimizer.lr == 2e-3
    assert (baseline.train.memory, baseline.train.clip_norm) == ("lean", 2.0)
    assert baseline.recipe == "lora_r8_lean"
    assert (baseline.seed, baseline.model, baseline.dataset) == (5, cfg.model, cfg.dataset)


def test_a_recipe_measured_against_itself_is_one_and_the_same(job_config):
    cfg = job_config("recipe=vanilla", "bench.baseline_recipe=vanilla")
    assert identity(measured_config(baseline_config(cfg))) == identity(measured_config(cfg))


@pytest.mark.parametrize(
    "changed",
    [
        "rank.weight_epsilon=0.4",
        "rank.activation_epsilon=0.5",
        "rank.calibration_batches=3",
        "train.epochs=7",
        "train.memory=lean",
        "train.memory_budget_mib=900",
        "train.step_in_backward=true",
        "train.save=none",
        "device.memory_limit_mib=4000",
        "bench.rounds=9",
    ],
)
def test_a_baseline_is_the_same_whatever_it_does_not_read(job_config, changed):
    one, other = (measured_config(baseline_config(job_config(*more))) for more in ([], [changed]))
    assert identity(one) == identity(other)
    if changed == "rank.weight_epsilon=0.4":
        ours, changed_ours = (measured_config(job_config(*more)) for more in ([], [changed]))
        assert identity(ours) != identity(changed_ours)


@pytest.mark.parametrize("changed", ["dataset.batch_size=9", "optimizer=adamw", "method.scope=all", "seed=77"])
def test_another_baseline(job_config, changed):
    one, other = (measured_config(baseline_config(job_config(*more))) for more in ([], [changed]))
    assert identity(one) != identity(other)


@pytest.mark.parametrize("option", ["bench.baseline", "bench.baseline_recipe"])
def test_a_name_that_does_not_exist(job_config, option):
    with pytest.raises(UserError, match=f"{option}=nope: allowed is "):
        baseline_config(job_config(f"{option}=nope"))


def test_seeds_of_an_experiment_are_left_out(job_config, monkeypatch):
    monkeypatch.setattr(BenchCallback, "check", lambda *_: None)
    job_config()
    words = ["experiment=pareto", "hydra.sweeper.params.recipe='vanilla,lora_r8'"]  # of its 29
    cfg = compose("bench", words, return_hydra_config=True)
    assert "seed" in cfg.hydra.sweeper.params
    BenchCallback().on_multirun_start(cfg)
    assert set(cfg.hydra.sweeper.params) == {"recipe"}
