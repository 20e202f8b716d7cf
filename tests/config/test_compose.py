"""What the files under conf/ say. That each composes and is valid is in test_known_options.py."""

from importlib import import_module
from pathlib import Path
from types import GenericAlias

import pytest

from tests.small import METHODS
from wasi.config.validate import validate

CONF = Path(__file__).resolve().parents[2] / "conf"
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))

CONTRACT = {
    "model": "vit_b_32 vit_b_16 swin_t dinov2_vits14 deit_tiny_patch16_224 timm vit_micro",
    "dataset": "cifar10 cifar100 cub200 flowers102 pets fashion_mnist digits image_folder synthetic",
    "augment": "paper deit",
    "rank": "eps_0.4 eps_0.5 eps_0.6 eps_0.7 eps_0.8 eps_0.9 full",
    "device": "auto cpu cuda pi5 pi4",
    "logger": "wandb wandb_offline none",
    "experiment": "headline quickstart pretrain_vit_micro fig3a_rank_stability fig3b_wsi_vs_svd "
    "fig4_explained_variance fig5_vit_cifar10 fig6_swin_five_datasets fig8_device table1_all_linears ablation "
    "fig9_seeds fig10_more_datasets fig11_more_baselines "
    "table2_device_seconds table3_other_boards table4_energy",
}


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF.parent / "hydra_plugins").glob("*.py")))
def test_hydra_finds_its_plugins_in_every_python(name):
    """In Python 3.10, an alias such as `Mapping[str, int]` in a plugin's module ends every command in a traceback."""
    module = import_module(f"hydra_plugins.{name}")
    assert not [key for key, value in vars(module).items() if isinstance(value, GenericAlias)]


@pytest.mark.parametrize("group", CONTRACT)
def test_the_contract_names_exist(group):
    assert set(CONTRACT[group].split()) <= {path.stem for path in (CONF / group).glob("*.yaml")}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_states_its_command(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(f".py experiment={path.stem}" in line or f".py -m experiment={path.stem}" in line for line in header)


OF_THE_PAPER = sorted({path.stem.removesuffix("_small") for path in EXPERIMENTS if path.stem.endswith("_small")})


@pytest.mark.parametrize("name", OF_THE_PAPER)
def test_an_experiment_of_the_paper_comes_in_both_sizes_and_tells_its_run_time(name):
    for path in (CONF / "experiment" / f"{name}.yaml", CONF / "experiment" / f"{name}_small.yaml"):
        header = " ".join(line for line in path.read_text().splitlines() if line.startswith("#"))
        assert any(word in header for word in ("minute", "hours", "days")), path.name


@pytest.mark.parametrize("name", [name for name in OF_THE_PAPER if "swin" not in name])
def test_a_small_experiment_takes_dinov2_where_its_weights_are(name, compose_config, tmp_path):
    text = (CONF / "experiment" / f"{name}_small.yaml").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("# With DINOv2's weights at hand: ")]
    words = line.partition(": ")[2].replace("FILE", f"{tmp_path}/w.safetensors").split()
    config = "bench" if "bench_device.py" in text else "config"
    assert compose_config(f"experiment={name}_small", config=config, small=False).model.name == "vit_micro"
    cfg = compose_config(f"experiment={name}_small", *words, config=config, small=False)
    validate(cfg)
    assert cfg.model.name == "dinov2_vits14" and cfg.model.weights == f"{tmp_path}/w.safetensors"
    assert cfg.dataset.image_size % 14 == 0


def test_an_experiment_gives_way_to_the_command_line(compose_config):
    given = ["train.epochs=3", "dataset.batch_size=7"]
    cfg = compose_config("experiment=quickstart", *given, with_hydra=True, small=False)
    assert (cfg.train.epochs, cfg.dataset.batch_size) == (3, 7)
    assert cfg.hydra.sweeper.params.recipe == "micro_vanilla,micro_svd_llm,micro_wasi"


def test_the_paper_is_the_default(compose_config):
    cfg = compose_config(small=False)
    assert (cfg.model.name, cfg.dataset.name, cfg.method.name) == ("vit_b_32", "cifar10", "wasi")
    assert cfg.optimizer._target_ == "torch.optim.SGD"
    assert (cfg.optimizer.lr, cfg.optimizer.momentum, cfg.optimizer.weight_decay) == (0.05, 0, 1e-4)
    assert (cfg.train.epochs, cfg.dataset.batch_size, cfg.train.clip_norm, cfg.seed) == (50, 128, 2.0, 233)
    assert cfg.logger.mode == "online" and cfg.logger.project == "wasi"


@pytest.mark.parametrize("epsilon", [0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_eps_sets_both_thresholds(epsilon, compose_config):
    rank = compose_config(f"rank=eps_{epsilon}").rank
    assert rank.weight_epsilon == rank.activation_epsilon == epsilon


def test_a_raspberry_pi_has_four_threads_and_its_memory(compose_config):
    for name, memory in (("pi5", 8192), ("pi4", 4096)):
        device = compose_config(f"device={name}").device
        assert (device.num_threads, device.memory_limit_mib) == (4, memory)


@pytest.mark.parametrize("method", METHODS)
def test_every_choice_of_photos_can_be_overridden(method, compose_config):
    from hydra.utils import instantiate

    words = ("model=vit_micro", f"method={method}", "optimizer=adamw", "rank=eps_0.9", "train.memory=plain")
    cfg = compose_config("experiment=photos", *words, small=False)
    assert (cfg.method.name, cfg.method.scope, cfg.train.memory) == (method, "all", "plain")
    assert instantiate(cfg.method).name == method
