"""The one list of what changes a result, as fingerprint and report use it."""

import pytest
import torch
from omegaconf import OmegaConf

from wasi.config.fingerprint import fingerprint
from wasi.config.hardware import device_class
from wasi.config.without_effect import idle_options, remarks, remarks_on_benchmark
from wasi.models.input_spec import SIZES, known_image_size, library_of
from wasi.report.options import result_options


@pytest.mark.parametrize("name", sorted(SIZES))
def test_sizes_are_those_of_the_published_weights(name):
    library = "wasi" if name == "vit_micro" else "timm" if "patch" in name else "torchvision"
    model = {"name": name, "library": library, "weights": "pretrained"}
    assert library_of(model).input_spec(name, None).image_size == SIZES[name] == known_image_size(model)


def test_auto_is_what_torch_finds():
    assert device_class("auto") == ("cuda" if torch.cuda.is_available() else "cpu")
    assert [device_class(name) for name in ("cpu", "pi5", "pi4", "cuda")] == ["cpu", "cpu", "cpu", "cuda"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([], ["train.measure=false", "train.monitor=true", "device.memory_limit_mib=4096", "train.eval_every=2"]),
        (["train.memory=lean"], ["train.memory=lean", "train.chunk_size=16", "train.storage=bfloat16"]),
        ([], ["dataset.image_size=28", "train.micro_batch_size=128"]),
        ([], ["train.memory=lean"]),
        ([], ["augment.ratio=[0.5,2]"]),
        ([], ["augment=deit"]),
        (["augment.scale=[0.5,1]"], ["augment.scale=[0.5,1]", "augment.ratio=[0.5,2]"]),
        ([], ["dataset.image_size=32"]),
        (["method=wasi"], ["method=wasi", "rank.token_epsilon=0.8"]),
        (["method=wasi"], ["method=wasi", "rank.token_epsilon=0.9"]),
        (["dataset=synthetic"], ["dataset=synthetic", "dataset.test_size=128"]),
        (["dataset=synthetic"], ["dataset=synthetic", "dataset.train_size=null"]),
        (["optimizer=adamw"], ["optimizer=adamw", "+optimizer.amsgrad=true"]),
        ([], ["device.num_threads=1"]),
        ([], ["method.scope=all"]),
        ([], ["rank.activation_epsilon=0.5"]),
    ],
)
def test_the_report_groups_by_what_the_fingerprint_counts(one, other, compose_config):
    a, b = (compose_config(*words) for words in (one, other))
    options = [result_options(OmegaConf.to_container(cfg, resolve=True)) for cfg in (a, b)]
    assert (options[0] == options[1]) == (fingerprint(a) == fingerprint(b))


def test_an_unknown_timm_model_has_no_known_size():
    assert known_image_size({"name": "vit_of_nobody", "library": "timm", "weights": "pretrained"}) is None


def test_seeds_alone_do_not_make_groups(compose_config):
    a, b = (OmegaConf.to_container(compose_config(f"seed={s}", "method=lora"), resolve=True) for s in (1, 2))
    assert result_options(a) == result_options(b)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["augment.ratio=[0.5,2]"], ["augment.ratio has no effect with augment.scale=null"]),
        (["augment.ratio=[0.5,2]", "augment.scale=[0.5,1]"], []),
        (["augment=deit", "augment.ratio=[0.5,2]"], []),
        (["dataset.val_fraction=0.2"], []),
        (
            ["dataset.val_fraction=0.2", "dataset.val_size=9"],
            ["dataset.val_fraction has no effect with dataset.val_size=9"],
        ),
        (["dataset=image_folder", "dataset.val_fraction=0.2", "dataset.val_size=9"], []),
        (
            ["dataset.val_fraction=0.2", "dataset.val_source=test"],
            ["dataset.val_fraction has no effect with dataset.val_source=test"],
        ),
        (["dataset=image_folder", "dataset.val_fraction=0.2", "dataset.val_source=test"], []),
        (
            ["method=peft", "method.type=vera", "rank.calibration_batches=4"],
            ["rank.calibration_batches has no effect with method.type=vera"],
        ),
        (["method=peft", "method.type=eva", "method.calibration_batches=4"], []),
        (
            ["method=svd_llm", "rank.init=svd", "method.keep_ratio=0.5", "method.weight_epsilon=0.5"],
            ["rank.init has no effect with method=svd_llm", "method.weight_epsilon has no effect with method=svd_llm"],
        ),
    ],
)
def test_what_was_given_without_effect_is_told(words, told, compose_config):
    assert remarks([idle_options(compose_config(*words), words)]) == told


def test_what_a_benchmark_does_without_is_told():
    idle = ["train.monitor=true", "train.epochs=3", "train.select=best", "train.on_oom=halve", "scheduler=constant"]
    idle += ["scheduler.warmup_epochs=1", "train.save=none", "train.rerun=true", "train.checkpoint_every=5"]
    of_a_step = ["train.memory=lean", "train.micro_batch_size=8", "train.clip_norm=1", "device.memory_limit_mib=900"]
    of_a_step += ["optimizer.lr=1", "+train.step_in_backward=true", "dataset.num_workers=0", "bench.rounds=2"]
    expected = [f"{word.partition('=')[0]} changes nothing that a benchmark measures" for word in idle]
    assert remarks_on_benchmark([*idle, *of_a_step]) == expected
