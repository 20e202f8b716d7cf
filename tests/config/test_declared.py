"""What methods declare is complete, and can be read without torch."""

import subprocess
import sys
from pathlib import Path

from hydra.utils import get_class
from omegaconf import OmegaConf

from wasi.config.declared import appearance, declared_order, method_names, null_means, reads_rank, worth_tuning

CONF = Path(__file__).resolve().parents[2] / "conf" / "method"


def test_every_method_of_the_documents_has_a_look_and_a_sentence():
    table = (CONF.parents[1] / "docs" / "experiments.md").read_text().split("## Methods")[1]
    shipped = [name for name in method_names() if f"\n| `{name}` |" in table]
    assert {"vanilla", "svd_llm", "wasi", "wsi", "asi", "lora", "peft", "linear_probe"} <= {*shipped}
    assert [name for name in shipped if not (appearance(name) and appearance(name).about)] == []


def test_no_two_methods_look_alike():
    found = {name: appearance(name) for name in method_names()}
    assert found.keys() == {path.stem for path in CONF.glob("*.yaml")}
    looks = {name: look for name, look in found.items() if look is not None}
    for kind in ("order", "colour"):
        values = [getattr(look, kind) for look in looks.values()]
        assert len(set(values)) == len(values), kind
    assert [name for name, look in looks.items() if look.reference] == method_names()[:1]


def test_what_is_read_from_the_source_is_what_the_class_has():
    for name in method_names():
        config = OmegaConf.load(CONF / f"{name}.yaml")
        declared = get_class(config._target_).appearance.get(name)
        assert config.name == name
        if declared is None:
            assert appearance(name) is None
        else:
            assert {key: getattr(appearance(name), key) for key in declared} == declared


def test_a_method_that_is_not_there_comes_last_and_reads_nothing():
    assert appearance("~nope") is None and not reads_rank("~nope")
    assert sorted(["~nope", *method_names()], key=declared_order)[-1] == "~nope"


def test_torch_is_not_imported():
    code = "import sys; from wasi.config.declared import *; from wasi.config import declared\n"
    code += "assert declared.appearance('lora').order == 5 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONF.parents[1])


def test_what_a_method_declares_as_worth_tuning_are_allowed_values_of_its_options(compose_config):
    from wasi.config.known_options import check_config

    declared = {name: worth_tuning(name) for name in method_names()}
    assert declared["lora"] and declared["wasi"] and not declared["vanilla"]
    for name, options in declared.items():
        for option, values in options.items():
            for value in values:
                check_config(compose_config(f"method={name}", f"{option}={value}"))


def test_null_means_something_where_the_default_is_null():
    assert null_means("peft")["lora_rank"] == 8 and null_means("vanilla") == {} == null_means("nope")
    for name in method_names():
        config = OmegaConf.load(CONF / f"{name}.yaml")
        assert null_means(name) == get_class(config._target_).null_means.get(name, {})
        assert all(config[option] is None for option in null_means(name))
