"""The allowed values of every option, checked before anything heavy is imported.

Rules about single options are here, those about combinations in `combinations.py`. Options that the composed
configuration does not have are skipped. What depends on a particular method, model or dataset is checked by that.
"""

import math
import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from wasi.config import objectives
from wasi.config.combinations import TOGETHER
from wasi.config.declared import options_of
from wasi.config.files import flat, plain
from wasi.config.levels import LEVELS
from wasi.config.relevance import has_effect
from wasi.errors import UserError, as_written, first_line

Predicate = Callable[[Any], bool]
_ABSENT = object()
_LARGEST = 3.4e38  # of float32, rounded down
_MOST = 2**63 - 1  # of torch's integers


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether `value` is an integer or a float, and finite in float32, in which torch computes with it."""
    return (is_integer(value) or isinstance(value, float)) and abs(value) <= _LARGEST


def integer_from(low: int) -> Predicate:
    """Return a predicate for integers not below `low`, and below 2^63, as torch has them."""
    return lambda value: is_integer(value) and low <= value <= _MOST


def number(test: Predicate) -> Predicate:
    """Return a predicate for finite numbers that pass `test`."""
    return lambda value: is_number(value) and test(value)


def one_of(*names: Any) -> Predicate:
    """Return a predicate for these strings."""
    return lambda value: isinstance(value, str) and value in names


def or_null(test: Predicate) -> Predicate:
    """Return a predicate for null and for values that pass `test`."""
    return lambda value: value is None or test(value)


def is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def list_of(test: Predicate) -> Predicate:
    """Return a predicate for non-empty lists of items that pass `test`."""
    return lambda value: isinstance(value, (list, ListConfig)) and len(value) > 0 and all(map(test, value))


def is_pair_of_betas(value: Any) -> bool:
    return isinstance(value, (list, ListConfig)) and len(value) == 2 and all(_share(b) and b < 1 for b in value)


def is_range(test: Predicate) -> Predicate:
    """Return a predicate for lists of two numbers that pass `test`, the second not below the first."""
    return lambda value: list_of(number(test))(value) and len(value) == 2 and value[0] <= value[1]


# The policies of timm's `create_transform`: RandAugment, AugMix and AutoAugment.
_POLICY = re.compile(
    r"rand(-(m|n|mmax|inc)\d+|-(mstd|p)\d+(\.\d+)?)*|augmix(-(m|w|d|b)\d+|-(mstd|a)\d+(\.\d+)?)*|(v0|original)r?|3a"
)
# Smallest and largest numbers in them, by letter. More layers, chains or operations than 100 are seconds an image; with
# an `a` below 0.1, shares of Dirichlet's distribution are 0 / 0 now and then.
_POLICY_BOUNDS = {"n": (0, 100), "w": (1, 100), "d": (0, 100), "a": (0.1, 1000)}
_POLICY_BOUND = (0, 1000)
_WANDB_PROJECT = re.compile(r"[^/\\#?%:]{1,128}")  # as wandb.Settings requires
_share = number(lambda x: 0 <= x <= 1)
_epsilon = number(lambda x: 0 < x <= 1), "a number in (0, 1]"
_positive = number(lambda x: x > 0), "a number above 0"
_is_list = list_of(lambda item: True)
_is_rates = list_of(_positive[0])
_ranks_or_null = or_null(list_of(integer_from(1))), "a list of whole numbers from 1 up, one per mode, or null"
# Of smaller ones, both variables that torch makes a share of are rounded to 0 ever more often, which it takes for 1/2.
_mixing = number(lambda x: x == 0 or x >= 0.01), "0, or a number from 0.01 up"
_not_negative = number(lambda x: x >= 0), "a number from 0 up"
_below_one = number(lambda x: 0 <= x < 1), "a number in [0, 1)"
_count = integer_from(1), "a whole number from 1 up"
_from_zero = integer_from(0), "a whole number from 0 up"
_yes_no = is_bool, "true or false"
_text = is_text, "a name"


def _is_device(value: Any) -> bool:
    names = ("auto", "cpu", "cuda", "pi5", "pi4")
    return isinstance(value, str) and (value in names or re.fullmatch(r"cuda:\d+", value) is not None)


def _is_policy(value: Any) -> bool:
    if not isinstance(value, str) or _POLICY.fullmatch(value) is None:
        return False
    numbers = re.findall(r"-([a-z]+)([\d.]+)", value)
    bounds = [(_POLICY_BOUNDS.get(letter, _POLICY_BOUND), float(number)) for letter, number in numbers]
    return all(low <= number <= high for (low, high), number in bounds)


def _is_tunable(option: Any) -> bool:
    """Return whether runs with several values of an option can have different results to choose among."""
    option = str(option).lstrip("+~")
    return option != "seed" and option.partition(".")[0] != "hydra" and has_effect(option)


def _nullable(rule: tuple[Predicate, str]) -> tuple[Predicate, str]:
    test, allowed = rule
    return or_null(test), f"{allowed}, or null"


def _names(*names: str) -> tuple[Predicate, str]:
    return one_of(*names), ", ".join(names[:-1]) + f" or {names[-1]}"


OPTIONS: dict[str, tuple[Predicate, str]] = {
    "seed": _from_zero,
    "recipe": _nullable(_text),  # as the recipe's file sets it
    "model.name": (is_text, "a model's name, for example vit_small_patch16_224"),
    "model.weights": (is_text, "pretrained, random, surrogate, a .safetensors file or a run's folder"),
    "dataset.name": _text,
    "dataset.root": (or_null(is_text), "a folder"),
    "dataset.download": _yes_no,
    "dataset.train_size": _nullable(_count),
    "dataset.val_size": _nullable(_count),
    "dataset.test_size": _nullable(_count),
    "dataset.val_source": _names("train", "test"),
    "dataset.val_fraction": (number(lambda x: 0 < x < 1), "a number above 0 and below 1"),
    "dataset.image_size": _nullable(_count),
    "dataset.batch_size": _count,
    "dataset.hflip": (_share, "a probability in [0, 1]"),
    "dataset.num_workers": _nullable(_from_zero),
    "augment.auto_augment": (
        or_null(_is_policy),
        "a policy in timm's words, for example rand-m9-mstd0.5-inc1 or augmix-m3-w3, or null; "
        "n and d are at most 100, w from 1 to 100, a from 0.1 up, and no number is above 1000",
    ),
    "augment.scale": (or_null(is_range(lambda x: 0 < x <= 1)), "two numbers in (0, 1], the smaller first, or null"),
    "augment.ratio": (is_range(lambda x: x > 0), "two numbers above 0, the smaller first"),
    "augment.mixup_alpha": _mixing,
    "augment.cutmix_alpha": _mixing,
    "augment.label_smoothing": _below_one,
    "rank.weight_epsilon": _epsilon,
    "rank.weight_allocation": _names("epsilon", "sensitivity"),
    "rank.init": _names("svd", "output", "features", "random"),
    "rank.parameter_ratio": _nullable(_epsilon),
    "rank.activation_epsilon": _epsilon,
    "rank.token_epsilon": _nullable(_epsilon),
    "rank.activation_selection": _names("epsilon", "fixed", "perplexity"),
    "rank.activation_ranks": _ranks_or_null,
    "rank.basis_update_gap": _count,
    "rank.preconditioner": _names("step", "basis"),
    "rank.batch_mode": _names("whole", "cut"),
    "rank.perplexity_ceiling": _nullable(_not_negative),
    "rank.memory_budget_mib": _nullable(_positive),
    "rank.perplexity_table": (or_null(is_text), "the path of an earlier run's perplexity.json, or null"),
    "rank.keep_ratio": _nullable(_epsilon),
    "rank.calibration_batches": _count,
    "method.name": _text,
    "method._target_": _text,
    "method.scope": _names("mlp", "attention", "all"),
    "method.train_rest": _yes_no,
    "method.weight_epsilon": _epsilon,
    "method.merge": _yes_no,
    "method.frozen_blocks": _nullable(_from_zero),
    "method.base": (or_null(one_of("int8", "nf4")), "int8, nf4 or null"),
    "method.lora_rank": _nullable(_count),
    "method.lora_alpha": _nullable(_positive),
    "method.block_size": _nullable(_count),
    "method.init_rank": _nullable(_count),
    "method.tinit": _nullable(_from_zero),
    "method.tfinal": _nullable(_from_zero),
    "method.orth_reg_weight": _nullable(_not_negative),
    "method.type": _text,
    "method.activations": (or_null(lambda value: isinstance(value, DictConfig)), "options of a class, or null"),
    "method.preconditioner": _names("step", "basis"),
    "method.activations.perplexity.objective": _names("memory", "perplexity"),
    "method.update": _names("subspace", "svd", "none"),
    "method.init": _names("svd", "output", "features", "random"),
    "device.name": (_is_device, "auto, cpu, cuda, cuda:N, pi5 or pi4"),
    "device.num_threads": _nullable(_count),
    "device.dtype": _names("float32", "bfloat16"),
    "device.tf32": _yes_no,
    "device.compile": _yes_no,
    "device.memory_limit_mib": _nullable(_positive),
    "device.flush_denormals": _yes_no,
    "optimizer.lr": _positive,
    "optimizer.momentum": _below_one,
    "optimizer.head_lr_ratio": _positive,
    "optimizer.dampening": _below_one,
    "optimizer._target_": _text,
    "optimizer.nesterov": _yes_no,
    "optimizer.betas": (is_pair_of_betas, "two numbers in [0, 1)"),
    "optimizer.eps": _positive,
    "optimizer.weight_decay": _not_negative,
    **{f"optimizer.{flag}": _yes_no for flag in ("amsgrad", "maximize", "capturable", "differentiable", "centered")},
    **{f"optimizer.{flag}": (or_null(is_bool), "true, false or null") for flag in ("foreach", "fused")},
    "optimizer.rank": _count,
    "optimizer.update_proj_gap": _count,
    "optimizer.scale": _positive,
    "optimizer.proj_type": _names("std", "reverse_std", "left", "right"),
    "optimizer.proj": _names("random", "svd"),
    "optimizer.scale_type": _names("channel", "tensor"),
    "scheduler.warmup_epochs": _not_negative,
    "scheduler.min_lr_ratio": (_share, "a number in [0, 1]"),
    "logger.name": _names("wandb", "none"),
    "logger.mode": _names("online", "offline", "disabled"),
    "logger.project": (
        lambda value: isinstance(value, str) and _WANDB_PROJECT.fullmatch(value) is not None,
        "a name of at most 128 characters without / \\ # ? % :",
    ),
    "logger.entity": _nullable(_text),
    "logger.group": (lambda v: is_text(v) or is_number(v), "a name"),
    "logger.init_timeout": _positive,
    "logger.finish_timeout": _positive,
    "logger.log_model": _yes_no,
    "logger.system_metrics": (or_null(is_bool), "true, false or null"),
    "train.epochs": _count,
    "train.micro_batch_size": _nullable(_count),
    "train.gradient_checkpointing": _yes_no,
    "train.step_in_backward": _yes_no,
    "train.memory": _names("plain", "lean"),
    "train.chunk_size": _nullable(_count),
    "train.chunk_mib": (or_null(_positive[0]), "a number above 0 (MiB), or null"),
    "train.segment_size": _nullable(_count),
    "train.memory_budget_mib": (or_null(_positive[0]), "a number above 0 (MiB), or null"),
    "train.storage": (or_null(one_of("float32", "bfloat16")), "float32, bfloat16 or null"),
    "train.eval_every": _count,
    "train.select": _names("last", "best"),
    "train.clip_norm": _nullable(_positive),
    "train.checkpoint_every": _nullable(_count),
    "train.on_oom": _names("fail", "halve"),
    "train.rerun": _yes_no,
    "train.save": _names("model", "none"),
    "train.measure": (lambda v: is_bool(v) or one_of(*LEVELS)(v), "none, fast or full (false is none, true is full)"),
    "train.monitor": _yes_no,
    "tune.objectives": (
        lambda v: list_of(one_of(*objectives.ALLOWED))(v) and len(set(v)) == len(v),
        f"a list of metrics, each once: {', '.join(objectives.ALLOWED)}",
    ),
    "tune.declared": _yes_no,
    "tune.lr": (
        lambda v: v is None or _is_rates(v) or (isinstance(v, DictConfig) and all(map(_is_rates, v.values()))),
        "a list of numbers above 0, a mapping from optimizers to such lists, or null",
    ),
    "tune.optimizer": (or_null(list_of(is_text)), "a list of optimizers, or null"),
    "tune.options": (
        or_null(lambda v: isinstance(v, DictConfig) and all(map(_is_tunable, v)) and all(map(_is_list, v.values()))),
        "a mapping from options other than the seed that can change a run's result to lists of values, or null",
    ),
    "bench.baseline": (or_null(is_text), "a method's name, or null"),
    "bench.baseline_recipe": (or_null(is_text), "a recipe's name, or null"),
    "bench.warmup": _from_zero,
    "bench.min_count": _count,
    "bench.min_seconds": _not_negative,
    "bench.rounds": _count,
    "bench.runs": _count,
    "bench.rerun": _yes_no,
    "bench.data": _yes_no,
    "bench.fit": (or_null(lambda value: isinstance(value, DictConfig)), "options of experiment=fit, or null"),
}


def validate(cfg: DictConfig, swept: Collection[str] = ()) -> None:
    """Raise `UserError` for the first option whose value is not allowed.

    Args:
        swept: keys whose values differ from job to job; rules that concern them are left to the jobs.

    Raises:
        UserError: names the option, what was given and what is allowed.
    """
    for option, value in flat(plain(cfg)).items():
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            # W&B and figures fail at a byte that is not UTF-8, for which Python has a lone surrogate.
            given = value.encode(errors="backslashreplace").decode()
            raise UserError(option, given, "text in UTF-8; rename a folder of another encoding")
    alone = [((option,), test, allowed) for option, (test, allowed) in OPTIONS.items()]
    of_others = _with_another_meaning(str(_value(cfg, "method.name")))
    for options, test, allowed in alone + TOGETHER:
        if any(option in of_others or is_swept(option, swept) for option in options):
            continue
        *others, value = values = [_value(cfg, option) for option in options]
        if _ABSENT not in values and not test(*values):
            allowed = allowed.format(*map(as_written, others)) + bound(value, partial(test, *others))
            raise UserError(options[-1], value, allowed)


def check_option(option: str, value: Any) -> None:
    """Raise `UserError` if a single option, given to a class that is used without a configuration, is not allowed."""
    test, allowed = OPTIONS[option]
    if not test(value):
        raise UserError(option, value, allowed)


def bound(value: Any, test: Predicate) -> str:
    """Return what to add to the allowed values of `test`, which refuses `value`, if that is too large for torch."""
    if isinstance(value, float) and _LARGEST < abs(value) < math.inf:
        return f", at most {_LARGEST:g}"
    return ", below 2^63" if is_integer(value) and value > _MOST and test(_MOST) else ""


def _with_another_meaning(method: str) -> set[str]:
    """Return the options of a method whose default in its YAML breaks the rule for an option of that name.

    Methods share names such as `method.init`. Where a method's own default is not allowed, the name means something
    else there, and the rules are no concern of it.
    """
    own = {f"method.{key}": value for key, value in options_of(method).items() if not isinstance(value, dict)}
    literals = {key: value for key, value in own.items() if not str(value).startswith("${")}
    return {key for key, value in literals.items() if key in OPTIONS and not OPTIONS[key][0](value)}


def _value(cfg: DictConfig, option: str) -> Any:
    """Return the option's value, or `_ABSENT` if this configuration has no such option."""
    *sections, key = option.split(".")
    node: Any = cfg
    for section in sections:
        node = node.get(section) if isinstance(node, DictConfig) else None
    if not isinstance(node, DictConfig) or key not in node.keys():  # noqa: SIM118 (`in node` hides a missing value)
        return _ABSENT
    if OmegaConf.is_missing(node, key):
        raise UserError(option, "???", OPTIONS[option][1])
    try:
        return node[key]
    except OmegaConfBaseException as error:
        raise UserError(option, first_line(error), OPTIONS[option][1]) from error


def is_swept(option: str, swept: Collection[str]) -> bool:
    """Return whether `option` may differ from job to job: it or its group is swept, or an experiment or recipe is."""
    if "experiment" in swept or "recipe" in swept:
        return True
    return any(option == key or option.startswith(f"{key}.") for key in swept)
