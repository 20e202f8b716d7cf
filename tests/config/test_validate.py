"""Every rule refuses what it should, names the option, and lets the rest through."""

import os

import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf

from wasi.config import combinations
from wasi.config.combinations import TOGETHER
from wasi.config.declared import method_names, options_of
from wasi.config.validate import OPTIONS, validate
from wasi.errors import UserError

COUNT = ["0", "-1", "1.5", "true", "many", "999999999999999999999999"]
SHARE = ["0", "-0.1", "1.01", "nan", "inf", "true", "abc", "'0.5'", "[0.5]"]
HUGE = ["augmix-w99999", "augmix-d101", "rand-n101", f"rand-m{10**30}", f"augmix-a1{'0' * 400}", f"rand-p{'9' * 5000}"]
FLAG = ["1", "maybe", "null", "0.0"]

REFUSED = {
    "seed": ["-1", "1.0", "true", "null", "x", "9223372036854775808"],
    "recipe": ["5", "1.5", "true", "''", "[a,b]", "{a: 1}"],
    "rank.weight_epsilon": [*SHARE, "null"],
    "rank.activation_epsilon": [*SHARE, "null"],
    "rank.token_epsilon": SHARE,
    "rank.activation_selection": ["best", "null", "1"],
    "rank.keep_ratio": SHARE,
    "rank.weight_allocation": ["uniform", "null", "1"],
    "rank.parameter_ratio": SHARE,
    "rank.perplexity_ceiling": ["-1", "nan", "true", "low"],
    "rank.memory_budget_mib": ["0", "-1", "inf", "true"],
    "rank.perplexity_table": ["3", "true", "''"],
    "rank.calibration_batches": [*COUNT, "null"],
    "method.scope": ["head", "null", "[mlp]"],
    "method.train_rest": FLAG,
    "method.activations.perplexity.objective": ["nonsense", "null", "[memory]"],
    "dataset.batch_size": [*COUNT, "null"],
    "dataset.train_size": COUNT,
    "dataset.val_size": COUNT,
    "dataset.test_size": COUNT,
    "dataset.val_source": ["val", "null", "true"],
    "dataset.val_fraction": ["0", "1", "-0.1", "nan", "true", "null", "half"],
    "dataset.image_size": COUNT,
    "dataset.hflip": ["-0.1", "1.1", "true", "null"],
    "dataset.num_workers": ["-1", "0.5", "many"],
    "augment.auto_augment": ["rand-x9", "none", "3", "rand-m", "v0-m9", "augmix-a0", "augmix-w0", *HUGE],
    "augment.scale": ["0.5", "[0.5]", "[1,0.5]", "[0,1]", "[0.5,1.5]"],
    "augment.ratio": ["null", "[0,1]", "[2,1]"],
    "augment.mixup_alpha": ["-1", "null", "nan", "1e-40", "0.009"],
    "augment.cutmix_alpha": ["-1", "null", "nan", "1e-300"],
    "augment.label_smoothing": ["1", "-0.1", "null"],
    "dataset.download": FLAG,
    "model.weights": ["null", "3", "true"],
    "device.name": ["gpu", "null"],
    "tune.options": [
        *(f"{{{key}: [1]}}" for key in ("seed", "+seed", "hydra.run.dir", "sweep", "train.rerun", "tune.lr", "logger")),
        *("{train.epochs: []}", "{train.epochs: 3}", "[1]"),
    ],
    "device.num_threads": COUNT,
    "device.dtype": ["float16", "null"],
    "device.memory_limit_mib": ["0", "-5", "nan", "true"],
    "device.flush_denormals": FLAG,
    "device.compile": FLAG,
    "optimizer.lr": ["0", "-1", "nan", "1e300", "true", "null", "fast"],
    "optimizer.momentum": ["1", "-0.1", "null"],
    "optimizer.weight_decay": ["-1", "inf", "null"],
    "optimizer.nesterov": FLAG,
    "scheduler.warmup_epochs": ["-1", "null"],
    "scheduler.min_lr_ratio": ["-0.1", "2", "null"],
    "train.epochs": [*COUNT, "null"],
    "train.micro_batch_size": COUNT,
    "train.gradient_checkpointing": FLAG,
    "train.step_in_backward": FLAG,
    "train.memory": ["fat", "null"],
    "train.clip_norm": ["0", "-2", "nan", "true"],
    "train.checkpoint_every": COUNT,
    "train.eval_every": [*COUNT, "null"],
    "train.segment_size": COUNT,
    "train.select": ["first", "null", "1"],
    "rank.basis_update_gap": [*COUNT, "null"],
    "rank.preconditioner": ["never", "null", "true"],
    "train.rerun": FLAG,
    "train.measure": ["1", "quick", "null", "0.0"],
    "train.monitor": FLAG,
}


@pytest.mark.parametrize(("option", "given"), [(o, g) for o, values in REFUSED.items() for g in values])
def test_refused(option, given, composed):
    cfg = composed(option, given)
    with pytest.raises(UserError) as error:
        validate(cfg)
    assert str(error.value).startswith(f"{option}=") and "\n" not in str(error.value)


@pytest.mark.parametrize("ranks", ["[]", "[0,1,2]", "[1,2.5]", "[true]", "8", "[a]"])
def test_activation_ranks_are_positive_whole_numbers(ranks, composed):
    cfg = composed("rank.activation_ranks", ranks)
    cfg.rank.activation_selection = "fixed"
    with pytest.raises(UserError, match="rank.activation_ranks"):
        validate(cfg)


@pytest.mark.parametrize(
    ("overrides", "blamed"),
    [
        (["train.micro_batch_size=48"], "train.micro_batch_size=48"),
        (["rank.weight_allocation=sensitivity"], "rank.weight_allocation=sensitivity"),
        (["rank.weight_allocation=sensitivity", "method.init=output"], "rank.weight_allocation=sensitivity"),
        (["rank.parameter_ratio=0.5", "method.init=features"], "rank.parameter_ratio=0.5"),
        (["rank.activation_selection=fixed"], "rank.activation_ranks=null"),
        (["rank.activation_ranks=[1,2,3]"], "rank.activation_ranks=[1, 2, 3]"),
        (["rank.activation_selection=perplexity", "rank.activation_ranks=[1]"], "rank.activation_ranks=[1]"),
        (["rank.activation_selection=perplexity", "rank.token_epsilon=1"], "rank.token_epsilon=1"),
        (["rank.perplexity_ceiling=2"], "rank.perplexity_ceiling=2"),
        (["rank.memory_budget_mib=2"], "rank.memory_budget_mib=2"),
        (["rank.perplexity_table=t.json"], "rank.perplexity_table=t.json"),
        (
            ["rank.activation_selection=perplexity", "rank.perplexity_ceiling=2", "rank.memory_budget_mib=3"],
            "rank.memory_budget_mib=3",
        ),
        (["train.step_in_backward=true"], "train.step_in_backward=true"),
        (["optimizer=swan", "train.step_in_backward=true", "train.micro_batch_size=4"], "train.step_in_backward=true"),
        (["method=linear_probe", "optimizer=swan_momentum"], "optimizer._target_=wasi.training.swan.Swan"),
        (["method=bitfit", "optimizer=swan", "train.step_in_backward=true"], "optimizer._target_=wasi.training.swan."),
        (["method=bitfit", "train.step_in_backward=true"], "train.step_in_backward=true"),
        (["method=linear_probe", "train.gradient_checkpointing=true"], "train.gradient_checkpointing=true"),
        (["method.update=svd"], "method.update=svd"),
        (["rank.preconditioner=basis", "optimizer=adamw"], "method.preconditioner=basis"),
        (["rank.preconditioner=basis", "optimizer.momentum=0.9"], "method.preconditioner=basis"),
        (["rank.preconditioner=basis", "method.update=none"], "method.preconditioner=basis"),
        (["scheduler.warmup_epochs=51"], "scheduler.warmup_epochs=51"),
        (["optimizer=apollo", "optimizer.proj_type=left"], "optimizer.proj_type=left"),
        (["optimizer.nesterov=true"], "optimizer.nesterov=true"),
        (["optimizer.dampening=0.5"], "optimizer.dampening=0.5"),
        (
            ["rank.activation_selection=fixed", "rank.activation_ranks=[8,10,40]", "rank.batch_mode=cut"],
            "rank.batch_mode=cut",
        ),
        (["dataset.val_source=test", "dataset.test_size=9"], "dataset.test_size=9"),
        (["dataset.val_source=test", "train.select=best"], "dataset.val_source=test"),
        (["optimizer=adamw", "optimizer.betas=[0.9,1.0]"], "optimizer.betas=[0.9, 1.0]"),
        (["optimizer=adamw", "optimizer.eps=0"], "optimizer.eps=0"),
        (["logger=wandb_offline", "logger.mode=later"], "logger.mode=later"),
        (["logger=wandb", "logger.init_timeout=0"], "logger.init_timeout=0"),
        (["logger=wandb", "logger.project=team/vits"], "logger.project=team/vits"),
        (["device.compile=true", "method=lora", "method.base=int8"], "device.compile=true"),
        (["device.compile=true", "method=peft", "method.type=dora"], "device.compile=true"),
        (["device.compile=true", "train.memory=lean", "train.memory_budget_mib=900"], "device.compile=true"),
        (["+bench={baseline: null, baseline_recipe: vanilla}"], "bench.baseline_recipe=vanilla"),
        (["model=timm"], "model.name=???"),
        (["rank.weight_epsilon=${rank.nowhere}"], "rank.weight_epsilon="),
    ],
)
def test_refused_together(overrides, blamed, compose_config):
    with pytest.raises(UserError) as error:
        validate(compose_config(*overrides))
    assert str(error.value).startswith(blamed) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["rank.weight_epsilon=1", "rank.activation_epsilon=1e-3"],
        ["train.micro_batch_size=32", "train.clip_norm=null", "train.checkpoint_every=1", "train.memory=lean"],
        ["rank.activation_selection=fixed", "rank.activation_ranks=[8,10,40]"],
        ["rank.activation_selection=perplexity", "rank.perplexity_ceiling=0"],
        ["rank.activation_selection=perplexity", "rank.memory_budget_mib=0.5", "rank.perplexity_table=t.json"],
        ["optimizer.momentum=0.9", "optimizer.nesterov=true", "optimizer.weight_decay=0"],
        ["optimizer.momentum=0.9", "optimizer.dampening=0.5", "rank.batch_mode=cut"],
        ["dataset.train_size=1", "dataset.val_size=1", "dataset.image_size=32", "dataset.batch_size=1"],
        ["dataset.val_source=test", "dataset.val_size=9"],
        ["dataset.test_size=9", "dataset.val_fraction=0.5", "train.select=best"],
        ["scheduler.warmup_epochs=0.5", "scheduler.min_lr_ratio=1", "seed=0"],
        ["logger=wandb_offline", "logger.group=7", "logger.entity=me"],
        ["device.compile=true", "train.memory=lean", "method=peft", "method.type=pissa"],
        ["method=bitfit", "train.gradient_checkpointing=true"],
        ["tune.options={rank.activation_epsilon: [0.8, 0.9], optimizer: [sgd, adamw], +optimizer.nesterov: [true]}"],
        ["dataset.batch_size=9223372036854775807", "optimizer.lr=999999999999999999999999"],
    ],
)
def test_allowed(overrides, compose_config):
    validate(compose_config(*overrides))


@pytest.mark.parametrize(
    ("option", "given", "allowed"),
    [
        ("dataset.batch_size", "9223372036854775808", "a whole number from 1 up, below 2^63"),
        ("seed", "9223372036854775808", "a whole number from 0 up, below 2^63"),
        ("optimizer.lr", "1e300", "a number above 0, at most 3.4e+38"),
        ("dataset.hflip", "9223372036854775808", "a probability in [0, 1]"),
    ],
)
def test_the_bound_is_told_of_a_value_that_exceeds_nothing_else(option, given, allowed, composed):
    with pytest.raises(UserError) as error:
        validate(composed(option, given))
    assert error.value.allowed == allowed


def test_methods_without_matrices_to_whiten_are_those_whose_class_says_so():
    found = [name for name in method_names() if not get_class(options_of(name)["_target_"]).trains_matrices]
    assert sorted(found) == sorted(combinations._WITHOUT_MATRICES)


@pytest.mark.parametrize("option", ["dataset.root", "model.weights", "sweep"])
def test_a_folder_whose_name_is_not_utf_8_is_refused(option, compose_config):
    cfg = compose_config()
    OmegaConf.update(cfg, option, os.fsdecode(b"photos\xff"))
    with pytest.raises(UserError, match=rf"^{option}=photos\\udcff: allowed is text in UTF-8"):
        validate(cfg)


def test_what_is_swept_over_is_left_to_the_jobs(compose_config):
    validate(compose_config("rank.weight_epsilon=3"), swept={"rank.weight_epsilon", "method.weight_epsilon"})
    validate(compose_config("train.epochs=0"), swept={"train"})
    validate(compose_config("train.epochs=0"), swept={"experiment"})
    validate(compose_config("rank.activation_selection=fixed"), swept={"rank.activation_ranks"})
    with pytest.raises(UserError, match="train.epochs"):
        validate(compose_config("train.epochs=0"), swept={"rank", "method", "seed", "train.rerun"})


def test_no_option_of_a_rule_is_a_typing_error():
    assert {option for options, *_ in TOGETHER for option in options} <= set(OPTIONS)


@pytest.fixture
def composed(compose_config):
    """One option set past Hydra's own parser, as an experiment file would."""
    base = compose_config()

    def with_option(option: str, given: str):
        cfg = base.copy()
        OmegaConf.update(cfg, option, OmegaConf.create(f"value: {given}").value)
        return cfg

    return with_option
