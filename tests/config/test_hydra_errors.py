"""What Hydra refuses while composing, as one line that names option, given and allowed."""

import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.errors import ConfigCompositionException, InstantiationException, OverrideParseException

from tests.conftest import CONF
from wasi.config.hydra_errors import rejected

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def line(compose_config, *overrides, words=()):
    with pytest.raises((ConfigCompositionException, OverrideParseException, ValueError)) as error:
        compose_config(*overrides)
    mistake = rejected(error.value, words)
    return mistake and str(mistake)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=asi", "method.update=svd"], "method.update=svd: allowed is for method=wasi or wsi only"),
        (["method=vanilla", "method.lora_rank=3"], "method.lora_rank=3: allowed is for method=lora or "),
        (["method=wsi", "method.activations.epsilon=1"], "method.activations.epsilon=1: allowed is for method="),
        (["method=asi", "method.activations.rank=1"], "method.activations.rank=1: allowed is one of method."),
        (["optimizer.betas=[0.5,1]"], "optimizer.betas=[0.5,1]: allowed is for optimizer=adamw"),
        (["train.epoch=1"], "train.epoch=1: allowed is one of train.checkpoint_every, train.chunk_mib, "),
        (["epochs=1"], "epochs=1: allowed is one of augment, dataset, "),
        (["trian.epochs=1"], "trian.epochs=1: allowed is one of augment, dataset, "),
        (["method=wasy"], f"method=wasy: allowed is {', '.join(METHODS)}"),
        (["experiment=fig3"], "experiment=fig3: allowed is ablation, "),
        (["train.epochs.x=3"], "train.epochs.x=3: allowed is train.epochs=VALUE, as train.epochs has no "),
        (["rank=[1"], "rank=[1: allowed is what Hydra can read (no viable alternative at input '[1')"),
        (["train={epochs: {x: 1}}", "train.epochs=[1]"], "train.epochs=[1]: allowed is a mapping here, of x, each as "),
    ],
)  # fmt: skip
def test_option_given_allowed(overrides, message, compose_config):
    found = line(compose_config, *overrides)
    assert found.startswith(message) and "\n" not in found


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=1", "optimizer.lr or tune.lr"),
        ("trian.epochs=1", "train.epochs"),
        ("train.epoch=1", "train.epochs"),
        ("method.weight_epsilonn=1", "method.weight_epsilon"),
        ("epochs=1", "train.epochs"),
        ("modell=vit_micro", "model"),
        ("experimnt=fit", "experiment"),
    ],
)
def test_what_may_have_been_meant_is_told(override, meant, compose_config):
    assert line(compose_config, override).endswith(f"; did you mean {meant}?")


def test_nothing_is_guessed_that_is_not_alike(compose_config):
    assert "did you mean" not in line(compose_config, "zzz=1")
    assert "did you mean" not in line(compose_config, "method=asi", "method.init=svd")  # there is a rank.init


@pytest.mark.parametrize("word", ["rank=0.8", "rank=null", "rank=8", "rank=true"])
def test_a_number_in_the_place_of_a_choice_is_one_line(word, compose_config):
    with pytest.raises(ValueError) as error:
        compose_config(word)
    assert str(rejected(error.value, [word])).startswith(f"{word}: allowed is eps_0.4, eps_0.5, ")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("~model=1", "model=NAME to choose another, of deit_tiny_patch16_224, "),
        ("~model=swin_t", "model=NAME to choose another, of deit_tiny_patch16_224, "),
        ("~rank=[1]", "rank=NAME to choose another, of eps_0.4, "),
        ("~hydra/launcher=1", "hydra/launcher=NAME to choose another, of joblib, "),
        ("~optimizer={a:1}", "optimizer=NAME to choose another, of adamw, "),
        ("~dataset.root=3", "dataset.root=VALUE to set another; what it has is data"),
        ("~seed=3", "seed=VALUE to set another; what it has is 233"),
        ("~train=5", "train.OPTION=VALUE, to set what is in it"),
        ("~nothing=1", "an option that can be taken away; "),
        ("~train.nothing=1", "an option that can be taken away; "),
        ("~model@foo=bar", "an option that can be taken away; "),
        ("~=1", "an option that can be taken away; "),
    ],
)
def test_what_cannot_be_taken_away_is_one_line(word, message, compose_config):
    found = line(compose_config, word, words=[word])
    assert found.startswith(f"{word}: allowed is {message}") and "\n" not in found


@pytest.mark.parametrize("word", ["~nothing", "~train.nothing", "~model@foo", "~hydra.run.dir"])
def test_without_a_value_too(word, compose_config):
    assert line(compose_config, word, words=[word]).startswith(f"{word}: allowed is an option that can be taken away;")


def test_a_list_in_the_place_of_a_mapping_is_told_how(compose_config):
    mapping = "tune.lr={sgd: [0.1], adamw: [0.2]}"
    found = line(compose_config, mapping, "tune.lr=[0.3,0.4]")
    assert found.startswith("tune.lr=[0.3,0.4]: allowed is a mapping here, of sgd, adamw, each as tune.lr.KEY=VALUE; ")
    assert "\n" not in found and "tune.lr=null before this" in found
    assert compose_config(mapping, "tune.lr=null", "tune.lr=[0.3,0.4]").tune.lr == [0.3, 0.4]
    assert compose_config(mapping, "tune.lr.sgd=[0.3]").tune.lr.sgd == [0.3]


@pytest.mark.parametrize("path", ["a,b", "a=b", "a (1)", "photos \U0001f4f7", "a'b", "für", "~/photos", "a^b"])
def test_a_path_that_wants_quotes_is_told_how(path, compose_config):
    found = line(compose_config, f"dataset.root={path}")
    assert found.startswith(f"dataset.root={path}: allowed is ") and "\n" not in found
    (quoted,) = shlex.split(found.partition("for Hydra: ")[2])
    assert compose_config(quoted).dataset.root == path


@pytest.mark.parametrize("dashes", ["-", "--"])
def test_an_option_with_dashes_is_told_without(dashes, compose_config):
    override = f"{dashes}train.epochs=5"
    assert line(compose_config, override) == f"{override}: allowed is train.epochs=5, without dashes"


def test_what_may_be_tuned_is_no_suggestion(compose_config):
    assert "did you mean" not in line(compose_config, "tune.options={zzz: [1]}", "zzz=1")


def test_a_path_that_the_shell_has_cut_is_told_how_too(compose_config):
    found = line(compose_config, "dataset.root=my", "photos", words=["dataset.root=my", "photos"])
    assert found.startswith("dataset.root=my photos: ") and found.endswith("""'dataset.root="my photos"'""")
    assert line(compose_config, "train.epochs") == "train.epochs: allowed is a value: train.epochs=VALUE"


def test_a_sweep_over_methods_is_told_how_to_give_their_option(compose_config):
    words = ["-m", "method=lora,svd_llm", "method.lora_rank=4"]
    found = line(compose_config, "method.lora_rank=4", words=words)
    assert found.endswith("; in a sweep over method write 'method.lora_rank=choice(4)'")
    assert "choice" not in line(compose_config, "method.lora_rank=4", words=["method=wasi", "method.lora_rank=4"])
    found = line(compose_config, "method.lora_rank=4", words=["-m", "method=vanilla,lora", "method.lora_rank=4,8"])
    assert found.endswith("; sweep over method=lora by itself: another command with the same sweep=NAME adds to it")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=fig11_more_baselines", "tune.lr.adamw.x=3"], "a number in the place of x, as tune."),
        (["optimizer=adamw", "optimizer.betas.7=0.5"], "what fits there (OmegaConf: list index out of range)"),
        (["optimizer=adamw", "optimizer.betas={a: 1}"], "what fits there (OmegaConf: Cannot merge DictConfig with "),
    ],
)  # fmt: skip
def test_what_does_not_fit_into_a_list_is_one_line(overrides, message, compose_config):
    found = line(compose_config, *overrides, words=overrides)
    assert found.startswith(f"{overrides[-1]}: allowed is {message}") and "\n" not in found


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+hydra.callbacks.foo=1", "a class and its arguments, as _target_ and beside it"),
        ("+hydra.callbacks.sweep.foo=1", "one of hydra.callbacks.sweep.fail_fast, the arguments of wasi.sweep."),
        ("+hydra.callbacks.progress.foo.x=1", "nothing here: wasi.progress.ProgressCallback has no arguments"),
    ],
)
def test_a_callback_that_cannot_be_made_is_one_line(word, message, compose_config):
    with pytest.raises(InstantiationException) as error:
        Callbacks(compose_config(word, with_hydra=True))
    found = str(rejected(error.value, ["-m", word]))
    assert found.startswith(f"{word[1:]}: allowed is {message}") and "\n" not in found


def test_the_options_of_a_fit_belong_to_its_experiment(compose_config):
    word = "bench.fit.methods=[x]"
    with pytest.raises(ConfigCompositionException) as error:
        compose_config(word, config="bench")
    assert str(rejected(error.value, [word])) == f"{word}: allowed is for experiment=fit only"


@pytest.mark.parametrize("value", ["5", "[wasi,1]", "null", "{a: 1}", "1.5"])
def test_a_verbosity_that_hydra_takes_unlooked_at(value):
    assert str(rejected(AssertionError(), ["seed=1", f"hydra.verbose={value}"])).startswith(f"hydra.verbose={value}: ")
    assert rejected(AssertionError(), [f"train.verbose={value}"]) is None


@pytest.mark.parametrize("value", ["true", "false", "wasi", "[wasi,hydra]", "[]"])
def test_a_verbosity_that_there_is_is_not_to_blame(value):
    assert rejected(TypeError("another"), [f"hydra.verbose={value}"]) is None


@pytest.mark.parametrize("word", ["hydra.job_logging.root.level=FOO", "hydra/hydra_logging=a", "hydra.job.name=a/b"])
def test_what_logging_cannot_be_set_up_with(word):
    error = ValueError("Unable to configure handler 'file'")
    error.__cause__ = FileNotFoundError(2, "No such file", "a/b.log")
    option, _, value = word.partition("=")
    allowed = "what Python's logging can set up (Unable to configure handler 'file': [Errno 2] No such file: 'a/b.log')"
    assert str(rejected(error, ["seed=1", word])) == f"{option}={value}: allowed is {allowed}"
    assert str(rejected(error, ["seed=1"])) == f"hydra.job_logging: allowed is {allowed}"


def test_a_group_that_a_file_of_the_user_s_chooses_twice_is_hydras_to_explain(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ndefaults:\n  - /method: lora\n")
    words = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    refused = pytest.raises(ConfigCompositionException, match="Multiple values for method")
    with initialize_config_dir(str(CONF), version_base="1.3"), refused as error:
        compose("config", words, return_hydra_config=True)
    assert rejected(error.value, words) is None


def test_other_refusals_are_not_translated(compose_config):
    assert line(compose_config, "+seed=3") is None


@pytest.mark.parametrize("given", [".foo=1", "={foo: 1}"])
@pytest.mark.parametrize("plus", ["", "+"])
def test_what_is_put_into_the_null_section_of_hydras_sweeper_is_named(plus, given, compose_config):
    words = ["train.epochs=1", f"{plus}hydra.sweeper.params{given}"]
    with pytest.raises((AssertionError, AttributeError)) as error:
        compose_config(*words, with_hydra=True)
    message = f"hydra.sweeper.params{given}: allowed is OPTION=VALUE,VALUE with -m in its place, as hydra.sweeper.param"
    assert str(rejected(error.value, words)).startswith(message)
