"""A recipe is a complete choice of method, optimizer, ranks and memory policy.

It wins over an experiment and gives way to the command line.
"""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from wasi.config.files import flat
from wasi.config.fingerprint import fingerprint
from wasi.config.known_options import check_config

CONF = Path(__file__).resolve().parents[2] / "conf"
RECIPES = sorted(path.stem for path in (CONF / "recipe").glob("*.yaml"))
SWEEPING = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml") if "      recipe:" in path.read_text())
PACKAGES = {"vanilla_galore": "galore_torch", "vanilla_apollo": "apollo_torch", "vanilla_adamw8bit": "bitsandbytes"}
NEEDS_SWAN = pytest.mark.skipif(not (CONF / "optimizer" / "swan.yaml").exists(), reason="no optimizer=swan yet")


def _text(name: str) -> str:
    """The recipe's file with those that it starts from."""
    text = (CONF / "recipe" / f"{name}.yaml").read_text()
    parents = [line[4:] for line in text.splitlines() if line.startswith("  - ") and line[4:] in RECIPES]
    return "\n".join([*map(_text, parents), text])


def _marked(names):
    return [pytest.param(name, marks=NEEDS_SWAN if "optimizer: swan" in _text(name) else []) for name in names]


def _commands(experiment: str) -> list[tuple[str, str]]:
    """The experiment with the main configuration of each command that its header names."""
    header = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    mains = {"config": "train.py", "bench": "bench_device.py"}
    found = [(config, experiment) for config, script in mains.items() if f"#   python {script} " in header]
    assert found, experiment
    return found


def _values(name: str) -> dict[str, str]:
    """The groups and options that the recipe chooses, with those that it starts from."""
    content, found = yaml.safe_load((CONF / "recipe" / f"{name}.yaml").read_text()), {}
    for default in content.pop("defaults", []):
        found |= _values(default) if default in RECIPES else dict(default) if isinstance(default, dict) else {}
    return found | {key: str(value) for key, value in flat(content).items() if key != "recipe"}


def _every_value() -> list[str]:
    """Few recipes in which each value that a recipe chooses is chosen, but for learning rates, of which one will do.

    Beside a recipe's own, an option's value is refused for what it is, or for that of one option of an experiment.
    """
    chosen = {
        name: {(key, "" if key.endswith("lr") else value) for key, value in _values(name).items()} for name in RECIPES
    }
    names, missing = [], set().union(*chosen.values())
    while missing:
        names.append(max(RECIPES, key=lambda name: len(chosen[name] & missing)))
        missing -= chosen[names[-1]]
    return sorted(names)


@pytest.mark.parametrize(
    ("config", "experiment", "name"),
    [
        pytest.param(config, experiment, *recipe.values, marks=recipe.marks)
        for config, experiment, names in (
            ("config", None, RECIPES),
            ("bench", None, _every_value()),
            *((*pair, _every_value()) for experiment in SWEEPING for pair in _commands(experiment)),
        )
        for recipe in _marked(names)
    ],
)
def test_every_recipe_composes_and_each_of_their_values_beside_an_experiment(config, experiment, name, compose_config):
    words = [f"experiment={experiment}"] if experiment else []
    cfg = compose_config(*words, f"recipe={name}", config=config, small=False)
    check_config(cfg)
    assert cfg.recipe == name and cfg.method.scope == "all"
    assert cfg.train.memory == ("lean" if name.endswith("_lean") else "plain")
    if experiment:
        shared = compose_config(*words, config=config, small=False)
        assert (cfg.model, cfg.dataset, cfg.device, cfg.train.epochs) == (
            shared.model, shared.dataset, shared.device, shared.train.epochs,
        )  # fmt: skip


@pytest.mark.parametrize("experiment", SWEEPING)
def test_an_experiment_sweeps_recipes_that_exist(experiment, compose_config):
    cfg = compose_config(f"experiment={experiment}", with_hydra=True, small=False)
    swept = [name.strip() for name in cfg.hydra.sweeper.params.recipe.split(",")]
    assert len(set(swept)) == len(swept) and set(swept) <= set(RECIPES)


def test_a_lean_recipe_is_the_plain_one_but_for_the_memory_policy(compose_config):
    plain, lean = (compose_config(f"recipe={name}") for name in ("lora_r32", "lora_r32_lean"))
    assert (plain.method.lora_rank, plain.optimizer.lr) == (32, 5e-4)
    lean.train.memory, lean.recipe = plain.train.memory, plain.recipe
    assert lean == plain


def test_a_recipe_wins_over_an_experiment_and_gives_way_to_the_command_line(compose_config):
    assert compose_config("experiment=accuracy_dinov2").optimizer.lr == 0.02
    cfg = compose_config("experiment=accuracy_dinov2", "recipe=lora_r8", small=False)
    assert (cfg.method.name, cfg.optimizer.lr, cfg.model.name) == ("lora", 2e-3, "dinov2_vits14")
    assert cfg.optimizer._target_ == "torch.optim.AdamW"
    given = ["recipe=lora_r8", "optimizer.lr=1e-4", "train.memory=lean", "method.lora_rank=4"]
    cfg = compose_config(*given)
    assert (cfg.optimizer.lr, cfg.train.memory, cfg.method.lora_rank) == (1e-4, "lean", 4)
    cfg = compose_config("recipe=lora_r8", "optimizer=sgd")
    assert cfg.optimizer._target_ == "torch.optim.SGD" and cfg.optimizer.lr == 2e-3


@NEEDS_SWAN
def test_a_group_of_the_command_line_wins_over_a_recipe_made_from_another(compose_config):
    cfg = compose_config("recipe=wasi_0.9_lean", "optimizer=adamw", "rank.activation_epsilon=0.8")
    assert cfg.optimizer._target_ == "torch.optim.AdamW" and cfg.train.memory == "lean"
    assert (cfg.rank.weight_epsilon, cfg.rank.activation_epsilon) == (0.9, 0.8)


def test_the_name_is_recorded_and_does_not_count(compose_config):
    named = compose_config("recipe=lora_r8")
    by_hand = compose_config(
        "method=lora", "method.scope=all", "method.lora_rank=8", "method.lora_alpha=16",
        "optimizer=adamw", "optimizer.lr=2e-3",
    )  # fmt: skip
    assert OmegaConf.select(named, "recipe") == "lora_r8" and by_hand.recipe is None
    assert fingerprint(named) == fingerprint(by_hand)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_optimizer_takes_every_option_that_the_recipe_gives_it(name, compose_config):
    from tests.small import build
    from wasi.training.baselines import mark_projected
    from wasi.training.optimizer import build_optimizer

    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    model, cfg = build("timm_vit"), compose_config(f"recipe={name}")
    if "rank" in cfg.optimizer:
        mark_projected(model, "all")
    build_optimizer(model, cfg.optimizer)


@pytest.mark.parametrize("choice", ["adamw", "sgd", "swan"])
def test_photos_can_be_given_another_optimizer(choice, compose_config):
    from tests.small import build
    from wasi.training.optimizer import build_optimizer

    cfg = compose_config("experiment=photos", "model=vit_micro", f"optimizer={choice}", small=False)
    build_optimizer(build("timm_vit"), cfg.optimizer)
