"""Equal runs have equal fingerprints, different runs different ones."""

import json
import subprocess
import sys

import pytest
from omegaconf import open_dict

from wasi.config.files import CONF
from wasi.config.fingerprint import canonical, fingerprint
from wasi.config.rank_options import options_without_effect


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["rank.weight_epsilon=0.8"], ["rank.weight_epsilon=0.80"]),
        (["rank.weight_epsilon=1"], ["rank.weight_epsilon=1.0"]),
        (["optimizer.lr=0.05"], ["optimizer.lr=5e-2"]),
        (["train.clip_norm=2"], ["train.clip_norm=2.0"]),
        (["rank=eps_0.8"], ["rank=full", "rank.weight_epsilon=0.8", "rank.activation_epsilon=0.8"]),
        (["dataset.batch_size=32", "seed=1"], ["seed=1", "dataset.batch_size=32"]),
        (["method=lora", "method.base=nf4"], ["method=lora", "method.base=nf4", "method.merge=false"]),
        (["method=peft"], ["method=peft", "method.lora_rank=8", "method.lora_alpha=16"]),
        (["method=peft", "method.type=oft"], ["method=peft", "method.type=oft", "method.block_size=8"]),
        (["method=wasi"], ["method=wasi", "rank.token_epsilon=0.8"]),
        (["method=asi", "rank=eps_0.6"], ["method=asi", "rank=eps_0.6", "rank.token_epsilon=0.6"]),
        (["dataset=synthetic"], ["dataset=synthetic", "dataset.train_size=null", "dataset.val_size=null"]),
        (["optimizer=adamw"], ["optimizer=adamw", "+optimizer.fused=null"]),
    ],
)
def test_the_same_value_in_another_spelling(one, other, compose_config):
    assert fingerprint(compose_config(*one)) == fingerprint(compose_config(*other))


@pytest.mark.parametrize("optimizer", ["galore", "apollo", "adamw8bit"])
def test_runs_from_before_their_file_had_a_ratio_for_the_head_keep_their_fingerprints(optimizer, compose_config):
    words = (f"optimizer={optimizer}", "optimizer.head_lr_ratio=1")
    before = compose_config(words[0])
    with open_dict(before):
        del before.optimizer.head_lr_ratio
    assert fingerprint(before) == fingerprint(compose_config(words[0])) == fingerprint(compose_config(*words))
    assert fingerprint(before) != fingerprint(compose_config(words[0], "optimizer.head_lr_ratio=5"))


@pytest.mark.parametrize(
    "override",
    [
        "logger=wandb_offline",
        "sweep=other",
        "train.checkpoint_every=7",
        "train.eval_every=3",
        "train.rerun=true",
        "dataset.num_workers=2",
        "dataset.root=elsewhere",
        "train.measure=false",
        "train.monitor=true",
        "device.memory_limit_mib=4096",
        "dataset.image_size=28",
        "train.micro_batch_size=128",
        "device.compile=false",
    ],
)
def test_what_cannot_change_the_result_does_not_count(override, compose_config):
    assert fingerprint(compose_config()) == fingerprint(compose_config(override))


@pytest.mark.parametrize(
    "override",
    [
        "seed=1",
        "method=vanilla",
        "method=lora",
        "method.scope=all",
        "rank=eps_0.4",
        "dataset.batch_size=64",
        "dataset.train_size=100",
        "dataset.train_size=1293",  # as many as null gives, written out
        "dataset.val_size=100",
        "dataset.test_size=100",
        "dataset.val_fraction=0.2",
        "dataset.val_source=test",
        "train.select=best",
        "dataset=synthetic",
        "model.weights=surrogate",
        "optimizer=adamw",
        "+optimizer.maximize=true",
        "+optimizer.fused=false",
        "optimizer.lr=0.06",
        "scheduler=constant",
        "train.epochs=3",
        "train.micro_batch_size=32",
        "train.gradient_checkpointing=true",
        "device=cuda",
        "device.num_threads=1",
        "device.compile=true",
        "dataset.image_size=32",
    ],
)
def test_what_changes_the_result_counts(override, compose_config):
    assert fingerprint(compose_config()) != fingerprint(compose_config(override))


@pytest.mark.parametrize("option", ["compile", "tf32"])
def test_a_result_from_before_there_was_an_option_keeps_its_fingerprint(option, compose_config):
    cfg = compose_config()
    expected = fingerprint(cfg)
    with open_dict(cfg):
        del cfg.device[option]
    assert fingerprint(cfg) == expected


@pytest.mark.parametrize(
    ("method", "option", "counts"),
    [
        ("vanilla", "weight_epsilon", False),
        ("vanilla", "activation_epsilon", False),
        ("vanilla", "calibration_batches", False),
        ("wasi", "calibration_batches", False),
        ("svd_llm", "calibration_batches", True),
        ("lora", "weight_epsilon", False),
        ("lora", "activation_epsilon", False),
        ("wsi", "weight_epsilon", True),
        ("wsi", "activation_epsilon", False),
        ("svd_llm", "weight_epsilon", True),
        ("svd_llm", "activation_epsilon", False),
        ("svd_llm", "keep_ratio", True),
        ("asi", "weight_epsilon", False),
        ("asi", "activation_epsilon", True),
        ("wasi", "weight_epsilon", True),
        ("wasi", "activation_epsilon", True),
    ],
)
def test_of_rank_only_what_the_method_reads(method, option, counts, compose_config):
    value = 3 if option == "calibration_batches" else 0.55
    plain = fingerprint(compose_config(f"method={method}"))
    assert (plain != fingerprint(compose_config(f"method={method}", f"rank.{option}={value}"))) == counts


SEARCH = "rank.activation_selection=perplexity"


SHARED = ["method=wasi", "method.init=features", "rank.weight_allocation=sensitivity"]
AS_WITHOUT = ("rank.token_epsilon=0.8", "method.scope=mlp")  # at other values they have an effect
FIXED_DIRECTLY = ["method.activations.selection=fixed", "method.activations.ranks=[2,2,2]"]
FIXED = ["rank.activation_selection=fixed", "rank.activation_ranks=[2,2,2]"]


@pytest.mark.parametrize(
    ("overrides", "change", "counts"),
    [
        (["dataset.val_size=100"], "dataset.val_fraction=0.2", False),
        (["dataset.val_source=test"], "dataset.val_fraction=0.2", False),
        (["dataset.train_size=1293"], "dataset.val_fraction=0.05", True),
        (["dataset.train_size=1292"], "dataset.train_size=1293", True),
        (["dataset=synthetic"], "dataset.val_fraction=0.2", False),
        (["dataset=flowers102"], "dataset.val_fraction=0.2", False),
        (["train.select=best"], "train.eval_every=2", True),
        (FIXED, "rank.activation_epsilon=0.5", False),
        (FIXED, "rank.weight_epsilon=0.5", True),
        (["method=wasi"], "rank.token_epsilon=1", True),
        (["method=wasi"], "rank.token_epsilon=0.8", False),
        (["method=asi", "rank.activation_epsilon=0.9"], "rank.token_epsilon=0.8", True),
        (["dataset=synthetic"], "dataset.test_size=128", False),
        (["dataset=synthetic"], "dataset.test_size=64", True),
        (["method=wsi"], "rank.token_epsilon=1", False),
        ([SEARCH], "rank.activation_epsilon=0.5", True),
        ([SEARCH], "rank.memory_budget_mib=2", True),
        ([SEARCH, "rank.memory_budget_mib=2"], "rank.activation_epsilon=0.5", False),
        ([SEARCH, "rank.perplexity_ceiling=2"], "rank.activation_epsilon=0.5", False),
        ([SEARCH, "rank.perplexity_ceiling=2"], "rank.perplexity_ceiling=3", True),
        ([SEARCH, "method.activations.perplexity.objective=perplexity"], "method.scope=mlp", False),
        ([SEARCH], "method.activations.perplexity.objective=perplexity", True),
        ([*SHARED], "rank.weight_epsilon=0.5", True),
        ([*SHARED, "rank.parameter_ratio=0.5"], "rank.weight_epsilon=0.5", False),
        ([*SHARED, "rank.parameter_ratio=0.5"], "rank.parameter_ratio=0.6", True),
        (["method=wasi", "method.init=features"], "rank.weight_allocation=sensitivity", True),
        (["method=vanilla"], "rank.weight_allocation=sensitivity", False),
        (["method=wasi"], "method.calibration_batches=3", False),
        (["method=wasi", "method.init=output"], "method.calibration_batches=3", True),
        (["method=svd_llm"], "method.calibration_batches=3", True),
        (["method=svd_llm", "method.keep_ratio=0.5"], "rank.weight_epsilon=0.5", False),
        (["method=svd_llm", "method.keep_ratio=0.5"], "method.weight_epsilon=0.5", False),
        (FIXED, "method.activations.epsilon=0.5", False),
        (FIXED_DIRECTLY, "method.activations.ranks=[2,2,1]", True),
        (FIXED_DIRECTLY, "rank.activation_epsilon=0.5", False),
        (["method=asi"], "rank.parameter_ratio=0.5", False),
        (["method=svd_llm", "rank.keep_ratio=0.5"], "rank.weight_epsilon=0.5", False),
        (["method=wasi", "rank.keep_ratio=0.5"], "rank.weight_epsilon=0.5", True),
        (["method=vanilla", "train.monitor=true"], "rank.weight_epsilon=0.5", False),
        (["train.memory=lean"], "train.chunk_size=16", False),
        (["train.memory=lean"], "train.chunk_mib=5", False),
        (["train.memory=lean"], "train.chunk_mib=4", True),
        (["train.memory=lean", "device=cuda"], "train.chunk_mib=5", True),
        (["train.memory=lean", "train.memory_budget_mib=900"], "train.chunk_mib=5", True),
        (["train.memory=lean"], "train.segment_size=2", False),
        (["train.memory=lean", "train.memory_budget_mib=900"], "train.chunk_size=16", True),
        (["train.memory=lean", "train.memory_budget_mib=900"], "train.storage=bfloat16", False),
        (["train.memory=lean"], "train.storage=bfloat16", False),
        (["train.memory=lean"], "train.storage=float32", True),
        (["dataset.batch_size=64"], "train.micro_batch_size=64", False),
        (["dataset.batch_size=64"], "train.micro_batch_size=32", True),
        (["device=cpu", "device.num_threads=4"], "device=pi5", False),
    ],
)
def test_an_option_without_effect_beside_the_others_does_not_count(overrides, change, counts, compose_config):
    plain, changed = (fingerprint(compose_config(*overrides, *more)) for more in ([], [change]))
    assert (plain != changed) == counts
    if change.startswith(("rank.", "method.")) and change not in AS_WITHOUT:
        option = change.partition("=")[0]
        assert options_without_effect(compose_config(*overrides, change), [option]) == ([] if counts else [option])


def test_a_perplexity_table_counts_by_content_not_by_path(tmp_path, compose_config):
    for name, content in (("a", "one"), ("b", "one"), ("c", "two")):
        (tmp_path / f"{name}.json").write_text(content)
    tables = [f"rank.perplexity_table={tmp_path}/{name}.json" for name in "abc"]
    a, b, c = (fingerprint(compose_config(SEARCH, table)) for table in tables)
    assert a == b != c and a != fingerprint(compose_config(SEARCH))


def test_weights_count_by_content_not_by_path(tmp_path, compose_config):
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    a, b, c = (fingerprint(compose_config(f"model.weights={tmp_path}/{name}.safetensors")) for name in "abc")
    assert a == b != c


def test_a_configuration_with_holes_still_has_a_stable_one(compose_config):
    holes = ["model=timm", "rank.weight_epsilon=abc"]
    stand_in = fingerprint(compose_config(*holes))
    assert stand_in == fingerprint(compose_config(*holes, "sweep=other", "logger=wandb_offline"))
    assert stand_in != fingerprint(compose_config(*holes, "seed=1"))


def test_canonical_keeps_booleans_apart_from_numbers():
    assert canonical([True, 1, 1.0, 0.5, None, float("inf")]) == [True, 1, 1, 0.5, None, "inf"]
    assert canonical(True) is True and canonical(1.0) is not True


@pytest.mark.parametrize(("rank", "start"), [("null", 12), ("5", 8)])
def test_a_default_that_depends_on_another_option_is_the_same_written_out(rank, start, compose_config):
    words = ["method=peft", "method.type=adalora", f"method.lora_rank={rank}"]
    prints = [
        fingerprint(compose_config(*words, f"method.init_rank={asked}")) for asked in ("null", start, start + 1)
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("model", "size"),
    [
        (["model=vit_b_32", "model.name=vit_l_32"], 224),
        (["model=vit_b_32", "model.name=swin_v2_t"], 256),
        (["model=timm", "model.name=deit_tiny_patch16_224.fb_in1k"], 224),
        (["model=timm", "model.name=vit_tiny_patch16_384"], 384),  # of which timm tells
        (["model=timm", "model.name=eva02_tiny_patch14_224.mim_in22k"], 224),
        (["model=dinov2_vits14"], 518),
        (["model=dinov2_vits14", "model.weights=FILE"], 518),
        (["model=vit_micro", "model.weights=RUN"], 32),
    ],
)
def test_the_image_size_of_the_weights_written_out_is_the_default(model, size, tmp_path, compose_config):
    header = {
        "format_version": 1, "architecture": {"library": "wasi", "name": "vit_micro"}, "method": "vanilla",
        "scope": "all", "classes": ["a", "b"], "layers": [],
        "input": {"image_size": 32, "mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bilinear"},
    }  # fmt: skip
    files = {"FILE": {}, "RUN": {"wasi": json.dumps(header)}}
    for name, metadata in files.items():
        (tmp_path / name).mkdir()
        text = json.dumps({"__metadata__": metadata}).encode()
        (tmp_path / name / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)
    words = [word.replace("=FILE", f"={tmp_path}/FILE").replace("=RUN", f"={tmp_path}/RUN") for word in model]
    prints = [fingerprint(compose_config(*words, f"dataset.image_size={n}")) for n in ("null", size, 4 * size)]
    assert prints[0] == prints[1] != prints[2]


def test_neither_torch_nor_timm_is_imported_for_what_null_stands_for():
    words = ["model=dinov2_vits14", "dataset.image_size=518"]
    compose = f"with initialize_config_dir({str(CONF)!r}, version_base='1.3'): cfg = compose('config', {words})"
    lines = [
        "import sys", "from hydra import compose, initialize_config_dir", "import wasi.config.resolvers",
        "from wasi.config.fingerprint import fingerprint", compose, "fingerprint(cfg)",
        "print({'torch', 'timm'} & sys.modules.keys())",
    ]  # fmt: skip
    assert subprocess.check_output([sys.executable, "-c", "\n".join(lines)], text=True).strip() == "set()"


def test_another_value_than_the_one_that_null_stands_for_counts(compose_config):
    asked = [["method=peft"], ["method=peft", "method.lora_rank=4"], ["method=peft", "method.lora_alpha=8"]]
    assert len({fingerprint(compose_config(*words)) for words in asked}) == 3
