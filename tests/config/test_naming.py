"""Folder names tell what a run is, are one plain path component, and never fail."""

import re

import pytest
from omegaconf import OmegaConf

from wasi.config.fingerprint import fingerprint
from wasi.config.naming import job_folder


@pytest.mark.parametrize(
    ("overrides", "readable"),
    [
        (["method=wasi"], "wasi-vit_micro-digits-eps_0.8-s233"),
        (["method=vanilla"], "vanilla-vit_micro-digits-s233"),
        (["method=lora", "seed=3"], "lora-vit_micro-digits-s3"),
        (["method=asi", "rank.activation_epsilon=0.5"], "asi-vit_micro-digits-eps_0.5-s233"),
        (["method=wasi", "rank.activation_epsilon=0.40"], "wasi-vit_micro-digits-eps_0.8_a0.4-s233"),
        (["method=wasi", "rank.token_epsilon=1"], "wasi-vit_micro-digits-eps_0.8_t1-s233"),
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
    "overrides",
    [
        ["model=timm", "model.name='hf_hub:some/one,two'"],
        ["model=timm"],
        ["rank.weight_epsilon=abc"],
        ["rank.activation_ranks=7"],
        ["method.name=../up"],
        ["model.weights=nowhere.safetensors"],
        ["seed=null"],
    ],
)
def test_any_configuration_has_a_folder(overrides, compose_config):
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", job_folder(compose_config(*overrides)))


def test_hydra_can_ask_for_it(compose_config):
    cfg = compose_config(with_hydra=True)
    assert OmegaConf.select(cfg, "hydra.sweep.subdir") == job_folder(cfg)
