"""Options that no file knows, sections taken away, and a method's options under their other name."""

from types import SimpleNamespace

import pytest
from hydra.conf import ConfigSourceInfo
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import OmegaConf, open_dict

from tests.conftest import CONF
from wasi.config import known_options
from wasi.config.hydra_errors import rejected
from wasi.config.known_options import check_config, check_hydra, check_needed
from wasi.errors import UserError

SHIPPED = [file for file in sorted(CONF.glob("*/*.yaml")) if file.parent.name != "recipe"]  # see test_recipes.py


# With bench.yaml, which has the same sections beside `bench` and `hydra`: all experiments, and one file of each group.
_BY_BOTH = {*{file.parent: file for file in SHIPPED}.values(), *(CONF / "experiment").glob("*.yaml")}


@pytest.mark.parametrize(
    ("file", "config"),
    [
        pytest.param(file, config, id=f"{file.parent.name}={file.stem}-{config}")
        for file in SHIPPED
        for config in ("config", "bench")
        if (file.parent.name != "bench" if config == "config" else file in _BY_BOTH)  # bench=: of bench_device.py alone
    ],
)
def test_everything_that_is_shipped_is_known(file, config, compose_config):
    extra = ["model.name=vit_tiny_patch16_224"] if file.stem == "timm" else []
    cfg = compose_config(f"{file.parent.name}={file.stem}", *extra, config=config, with_hydra=True, small=False)
    check_hydra(cfg.hydra)
    with open_dict(cfg):
        del cfg["hydra"]
    check_config(cfg)
    for target in _targets(OmegaConf.to_container(cfg, resolve=True)):
        assert callable(get_object(target)), target


def _targets(value):
    if isinstance(value, dict):
        if "_target_" in value:
            yield value["_target_"]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _targets(item)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+train.epoch=5"], "train.epoch=5: allowed is one of train.checkpoint_every, "),
        (["+foo=1"], "foo=1: allowed is one of "),
        (["+dataset.roots=x"], "dataset.roots=x: allowed is one of dataset.batch_size, "),
        (["+logger.groups=x"], "logger.groups=x: allowed is one of logger."),
        (["+rank.epsilon=0.3"], "rank.epsilon=0.3: allowed is one of rank.activation_epsilon, "),
        (["+train._epoch=5"], "train._epoch=5: allowed is one of train.checkpoint_every, "),
        (["+_foo=1"], "_foo=1: allowed is one of "),
        (["+_target_=a.b"], "_target_=a.b: allowed is one of "),
        (["+recipe.foo=1"], "recipe.foo=1: allowed is recipe=NAME"),
        (["+experiment.foo=1"], "experiment.foo=1: allowed is experiment=NAME"),
        (["+method.activations.foo=1"], "method.activations.foo=1: allowed is one of method.activations.batch_mode, "),
        (["+method.activations.perplexity.foo=1"], "method.activations.perplexity.foo=1: allowed is one of method."),
        (["~optimizer.lr"], "~optimizer.lr: allowed is only what a run does without"),
        (["~optimizer._target_"], "~optimizer._target_: allowed is only what a run does without"),
        (["~scheduler._target_"], "~scheduler._target_: allowed is only what a run does without"),
        (["~train.epochs"], "~train.epochs: allowed is only what a run does without"),
        (["~seed"], "~seed: allowed is only what a run does without"),
        (["~sweep"], "~sweep: allowed is only what a run does without"),
        (["method.activations.epsilon=5"], "method.activations.epsilon=5: allowed is a number in (0, 1]"),
        (["method.name=foo"], "method.name=foo: allowed is asi, "),
        (["method.seed=abc"], "method.seed=abc: allowed is a whole number from 0 up"),
        (["method.calibration_batches=-3"], "method.calibration_batches=-3: allowed is a whole number from 1 up"),
        (["method.calibration_batches=9223372036854775808"], "method.calibration_batches=9223372036854775808: "),
        (["method._target_=wasi.methods.nope.X"], "method._target_=wasi.methods.nope.X: allowed is the dotted path of"),
        (["method._target_=wasi.methods.lora.LoRA"], "method.weight_epsilon=0.8: allowed is one of method."),
        (["method=vanilla", "+method.calibration_batches=3"], "method.calibration_batches=3: allowed is one of method"),
        (["method=linear_probe", "method._target_=wasi.methods.lora.LoRA"], "method._target_=wasi.methods.lora.LoRA: "),
        (["method.activations.selection=fixed"], "rank.activation_ranks=null: allowed is a list with one"),
        (
            ["method.activations.token_epsilon=1", "rank.activation_selection=fixed", "rank.activation_ranks=[1,4,4]"],
            "rank.token_epsilon=1: allowed is null with rank.activation_selection=fixed",
        ),
        (["method=svd_llm", "method.weight_epsilon=0"], "method.weight_epsilon=0: allowed is a number in (0, 1]"),
    ],
)
def test_refused(overrides, message, compose_config):
    with pytest.raises(UserError) as error:
        check_config(compose_config(*overrides))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


def test_before_a_sweep_a_method_may_be_in_a_folder_of_config_dir(compose_config, tmp_path):
    (tmp_path / "method").mkdir()
    options = (CONF / "method" / "vanilla.yaml").read_text().replace("name: vanilla", "name: mine")
    (tmp_path / "method" / "mine.yaml").write_text(options)
    cfg = compose_config("method=vanilla", "method.name=mine", with_hydra=True)
    cfg.hydra.runtime.config_sources = []
    with pytest.raises(UserError, match=r"^method\.name=mine: "):
        check_config(cfg)
    cfg.hydra.runtime.config_sources = [ConfigSourceInfo(str(tmp_path), "file", "command-line")]
    check_config(cfg)


def test_the_benchmarks_own_section_is_looked_at_too(compose_config):
    with pytest.raises(UserError, match=r"^bench\.foo=1: allowed is one of bench\.baseline, "):
        check_config(compose_config("+bench.foo=1", config="bench"))
    with pytest.raises(UserError, match=r"^~bench\.rounds: "):
        check_needed("bench", compose_config("~bench.rounds", config="bench"))
    check_config(compose_config("experiment=quickstart", small=False))  # of which train.py reads nothing


def test_the_benchmarks_options_are_none_of_a_run(compose_config, monkeypatch):
    words = ["method=wasi", "+bench.rounds=3"]
    for config in ("config", "bench"):
        hydra_cfg = OmegaConf.create({"job": {"config_name": config}, "overrides": {"task": words}})
        monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
        monkeypatch.setattr(HydraConfig, "get", lambda found=hydra_cfg: found)
        monkeypatch.setattr(known_options, "_folders", lambda cfg: [CONF])
        if config == "bench":
            check_config(compose_config("bench.rounds=3", config="bench"))
            continue
        with pytest.raises(UserError, match=r"^bench\.rounds=3: allowed is for bench_device\.py only$"):
            check_config(compose_config(*words))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+hydra.foo=1"], "hydra.foo=1: allowed is one of hydra.callbacks, hydra.env, "),
        (["++hydra.foo.bar=1"], "hydra.foo={'bar': 1}: allowed is one of hydra.callbacks, "),
        (["+hydra.run.foo=1"], "hydra.run.foo=1: allowed is one of hydra.run.dir"),
        (["+hydra.sweep.foo=1"], "hydra.sweep.foo=1: allowed is one of hydra.sweep.dir, hydra.sweep.subdir"),
        (["hydra.job.chdir=true"], "hydra.job.chdir=true: allowed is false or null, as relative paths"),
        (["+hydra.job.foo=1"], "hydra.job.foo=1: allowed is one of hydra.job.chdir, "),
        (["+hydra.job.config.override_dirname.foo=1"], "hydra.job.config.override_dirname.foo=1: allowed is one of "),
        (["+hydra.job_logging.foo=1"], "hydra.job_logging.foo=1: allowed is one of hydra.job_logging.disable_existing"),
        (["+hydra.hydra_logging.foo=1"], "hydra.hydra_logging.foo=1: allowed is one of hydra.hydra_logging.disable"),
        (["+hydra.launcher.foo=1"], "hydra.launcher.foo=1: allowed is nothing here: hydra."),
        (["+hydra.sweeper.foo=1"], "hydra.sweeper.foo=1: allowed is one of hydra.sweeper.max_batch_size, hydra."),
        (["hydra/sweeper=optuna", "+hydra.sweeper.foo=1"], "hydra.sweeper.foo=1: allowed is one of hydra.sweeper.max"),
        (["hydra.sweeper.max_batch_size=0"], "hydra.sweeper.max_batch_size=0: allowed is a whole number from 1 up"),
        (["hydra/sweeper=tuned", "hydra.sweeper.max_batch_size=abc"], "hydra.sweeper.max_batch_size=abc: allowed is a"),
        (["hydra/sweeper=tuned", "hydra.sweeper.params=foo"], "hydra.sweeper.params=foo: allowed is a mapping from "),
        (["hydra.launcher=null"], "hydra.launcher=null: allowed is a class and its arguments"),
        (["hydra.callbacks.progress=null"], "hydra.callbacks.progress=null: allowed is a class and its arguments"),
        (["+hydra.callbacks.foo.x=1"], "hydra.callbacks.foo={'x': 1}: allowed is a class and its arguments"),
    ],
)
@pytest.mark.parametrize("config", ["config", "bench"])
def test_what_hydra_would_not_read_is_refused(overrides, message, config, compose_config):
    with pytest.raises(UserError) as error:
        check_hydra(compose_config(*overrides, config=config, with_hydra=True).hydra)
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["hydra.run.dir=a", "hydra.sweep.dir=b", "hydra.output_subdir=null"],
        ["hydra.job.name=a", "hydra.mode=MULTIRUN", "hydra.searchpath=[]", "hydra.verbose=[wasi]"],
        ["hydra.job.chdir=false", "+hydra.job.env_set.A=b", "hydra.job.env_copy=[PATH]", "+hydra.env.a=1"],
        ["hydra.job.config.override_dirname.exclude_keys=[seed]", "hydra.help.app_name=a", "~hydra.callbacks.progress"],
        ["+hydra.job_logging.loggers.wasi.level=DEBUG", "hydra/job_logging=stdout", "hydra/hydra_logging=none"],
        ["hydra.job_logging.root.level=DEBUG", "+hydra.job_logging.filters={}", "hydra.callbacks.sweep.fail_fast=2"],
        ["+hydra.callbacks.mine._target_=hydra.experimental.callback.Callback", "hydra.sweeper.max_batch_size=2"],
        ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.seed=1", "hydra/launcher=basic"],
        ["hydra/sweeper=tuned", "hydra.sweeper.params={seed: '1,2'}"],
        *([f"hydra/launcher={file.stem}"] for file in sorted((CONF / "hydra" / "launcher").glob("*.yaml"))),
    ],
    ids=" ".join,
)
def test_what_hydra_reads_is_let_by(overrides, compose_config):
    check_hydra(compose_config(*overrides, with_hydra=True, small=False).hydra)


def test_a_launchers_options_are_those_that_its_plugin_has_described(compose_config, monkeypatch):
    options = ("++hydra.launcher.backend=loky", "+hydra.launcher.foo=1")
    asked, unknown = (compose_config("hydra/launcher=joblib", option, with_hydra=True).hydra for option in options)
    names = {"backend", *asked.launcher} - {"_target_"}  # more than the shipped file's, where the plugin is installed
    described = SimpleNamespace(node={"_target_": "a.B", **dict.fromkeys(names)})
    monkeypatch.setattr(known_options.ConfigStore.instance(), "load", lambda path: described)
    check_hydra(asked)
    with pytest.raises(UserError) as error:
        check_hydra(unknown)
    allowed = ", ".join(f"hydra.launcher.{name}" for name in sorted(names))
    assert str(error.value) == f"hydra.launcher.foo=1: allowed is one of {allowed}"


@pytest.mark.parametrize("section", ["train", "model", "optimizer", "rank"])
def test_a_section_is_no_null(section, compose_config):
    cfg = compose_config()
    OmegaConf.update(cfg, section, None, force_add=True)
    with pytest.raises(UserError, match=f"^{section}=null: allowed is "):
        check_config(cfg)


@pytest.mark.parametrize("overrides", [["+optimizer.fused=false"], ["method=wasi", "method.init=features"]])
def test_what_a_class_takes_as_an_argument_is_left_to_it(overrides, compose_config):
    check_config(compose_config(*overrides))


def test_a_group_that_hydra_has_a_traceback_for():
    error = ValueError("Config group override must be a string or a list. Got NoneType")
    assert str(rejected(error, ["seed=1", "optimizer=null"])).startswith("optimizer=null: allowed is adamw, ")
    assert rejected(ValueError("another"), ["optimizer=null"]) is None
    assert rejected(error, ["seed=null"]) is None
