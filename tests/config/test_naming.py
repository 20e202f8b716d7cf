"""Folder names tell what a run is, are one plain path component, and never fail."""

import re

import pytest
from omegaconf import OmegaConf

from wasi.config.fingerprint import fingerprint
from wasi.config.naming import job_folder, row_label


@pytest.mark.parametrize(
    ("overrides", "readable"),
    [
        (["method=wasi"], "wasi-vit_micro-digits-eps_0.8-s233"),
        (["method=vanilla"], "vanilla-vit_micro-digits-s233"),
        (["method=lora", "seed=3"], "lora-vit_micro-digits-s3"),
        (["method=asi", "rank.activation_epsilon=0.5"], "asi-vit_micro-digits-eps_0.5-s233"),
        (["method=wasi", "rank.activation_epsilon=0.40"], "wasi-vit_micro-digits-eps_0.8_a0.4-s233"),
        (["method=wasi", "rank.token_epsilon=1"], "wasi-vit_micro-digits-eps_0.8_t1-s233"),
        (["method=wasi", "rank.token_epsilon=0.80"], "wasi-vit_micro-digits-eps_0.8-s233"),
        (["method=wasi", "rank=full"], "wasi-vit_micro-digits-eps_1-s233"),
        (["method=svd_llm", "rank.keep_ratio=0.3"], "svd_llm-vit_micro-digits-keep_0.3-s233"),
        (
            ["method=wasi", "rank.activation_selection=fixed", "rank.activation_ranks=[2,2,4]"],
            "wasi-vit_micro-digits-eps_0.8_r2x2x4-s233",
        ),
        (
            ["method=wasi", "rank.activation_selection=perplexity"],
            "wasi-vit_micro-digits-eps_0.8_search_a0.8-s233",
        ),
        (
            ["method=asi", "rank.activation_selection=perplexity", "rank.memory_budget_mib=0.5"],
            "asi-vit_micro-digits-search_0.5MiB-s233",
        ),
    ],
)
def test_the_name_is_readable_and_ends_in_the_fingerprint(overrides, readable, compose_config):
    cfg = compose_config(*overrides)
    assert job_folder(cfg) == f"{readable}-{fingerprint(cfg)[:10]}"


@pytest.mark.parametrize(
    ("overrides", "readable"),
    [
        (["method=wasi"], "wasi-eps_0.8-vit_micro-digits"),
        (["method=vanilla"], "vanilla-vit_micro-digits"),
        (["recipe=lora_r8"], "lora_r8-vit_micro-digits"),
    ],
)
def test_a_row_is_named_by_recipe_or_method_then_by_a_hash(overrides, readable, compose_config):
    assert re.fullmatch(rf"{readable}-[0-9a-f]{{6}}", row_label(compose_config(*overrides)))


@pytest.mark.parametrize("method", ["vanilla", "wasi", "lora", "svd_llm"])
def test_runs_that_differ_by_seed_alone_are_one_row(method, compose_config):
    rows = {row_label(compose_config(f"method={method}", f"seed={seed}")) for seed in (0, 1, 233)}
    assert len(rows) == 1


def test_runs_that_differ_otherwise_are_rows_of_their_own(compose_config):
    differing = [
        [],
        ["model=deit_tiny_patch16_224"],
        ["dataset=synthetic"],
        ["rank.weight_epsilon=0.7"],
        ["rank.activation_epsilon=0.7"],
        ["optimizer=adamw"],
        ["optimizer.lr=0.01"],
        ["train.memory=lean"],
        ["method=lora"],
        ["method=lora", "method.lora_rank=4"],
        *([f"recipe={name}"] for name in ("lora_r8", "lora_r8_lean", "lora_r32", "lora_r8_nf4", "vanilla")),
    ]
    assert len({row_label(compose_config(*overrides)) for overrides in differing}) == len(differing)


def test_thresholds_that_vanilla_does_not_read_make_no_other_row(compose_config):
    rows = {row_label(compose_config("method=vanilla", f"rank=eps_{threshold}")) for threshold in (0.4, 0.8)}
    assert len(rows) == 1


def test_a_benchmark_is_another_row_than_training(compose_config):
    of_bench = row_label(compose_config("method=wasi", config="bench"))
    assert re.fullmatch(r"wasi-eps_0.8-vit_micro-digits-[0-9a-f]{6}-bench", of_bench)
    assert not row_label(compose_config("recipe=vanilla", "+bench.baseline_recipe=vanilla")).endswith("-bench")


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=timm", "model.name='hf_hub:some/one,two'"],
        ["model=timm"],
        ["rank.weight_epsilon=abc"],
        ["method=wasi", "rank.activation_selection=perplexity", "method.activations.perplexity.budget_mib=5"],
        ["rank.activation_ranks=7"],
        ["method.name=../up"],
        ["model.weights=nowhere.safetensors"],
        ["seed=null"],
    ],
)
def test_any_configuration_has_a_folder(overrides, compose_config):
    cfg = compose_config(*overrides)
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", job_folder(cfg))
    assert row_label(cfg)


def test_hydra_can_ask_for_it(compose_config):
    cfg = compose_config(with_hydra=True)
    assert OmegaConf.select(cfg, "hydra.sweep.subdir") == job_folder(cfg)
