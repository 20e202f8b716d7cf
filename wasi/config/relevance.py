"""What of a configuration can change a run's result: the one list that fingerprints and reports' groups go by."""

from collections.abc import Mapping
from typing import Any

from wasi.config.declared import null_values
from wasi.config.hardware import device_class
from wasi.data import synthetic
from wasi.models.input_spec import SIZES, known_blocks
from wasi.models.weights_file import KEYWORDS

# `rank` is a table of choices: what a method reads of it stands in the method's own section.
SECTIONS = ("model", "dataset", "augment", "method", "optimizer", "scheduler", "train", "device")
_WITHOUT_EFFECT = {
    "dataset": ("root", "download", "num_workers"),
    "train": ("checkpoint_every", "eval_every", "on_oom", "rerun", "save", "measure", "monitor"),
    "device": ("memory_limit_mib",),
}
_NO_AUGMENTATION = (None, 0)
_CHUNK_MIB = 5  # 8 images of a ViT-B/32


def relevant(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of a resolved configuration without what has no effect, and null for a default written out.

    Equal for two configurations that differ in bookkeeping, in `device.name` within one class of devices, in
    `train.micro_batch_size` = `dataset.batch_size` or null, and the like. Seeds are kept where a section has one.
    """
    parts = {
        name: {key: value for key, value in config[name].items() if key not in _WITHOUT_EFFECT.get(name, ())}
        for name in SECTIONS
        if isinstance(config.get(name), Mapping)
    }
    parts |= _augmentation(parts.pop("augment", {}))
    if parts.get("train", {}).get("select") == "best":  # among the epochs that are evaluated
        parts["train"]["eval_every"] = config["train"]["eval_every"]
    for name, key, default in _defaults(parts):
        if parts.get(name, {}).get(key) == default:
            parts[name][key] = None
    if "method" in parts:
        parts["method"] = without_token_default(parts["method"])
    if "name" in parts.get("device", {}):
        parts["device"]["name"] = device_class(parts["device"]["name"])
    return parts


def has_effect(option: str) -> bool:
    """Whether an option of a command line can change a run's result. What tuning tries is told by the values in a run.

    >>> [has_effect(option) for option in ("train.epochs", "train.rerun", "logger", "+tune.lr")]
    [True, False, False, False]
    """
    section, _, key = option.lstrip("+").partition(".")
    return section not in ("logger", "sweep", "tune") and key not in _WITHOUT_EFFECT.get(section, ())


def without_token_default(method: dict[str, Any]) -> dict[str, Any]:
    """A method's options with null for a threshold of the token modes that is the one of all modes written out.

    >>> without_token_default({"activations": {"epsilon": 0.8, "token_epsilon": 0.8}})
    {'activations': {'epsilon': 0.8, 'token_epsilon': None}}
    """
    found = method.get("activations")
    if not isinstance(found, Mapping) or found.get("token_epsilon") != found.get("epsilon"):
        return method
    return {**method, "activations": {**found, "token_epsilon": None}}


def _augmentation(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What is switched on; no section where nothing is, as in runs from before there was any."""
    on = {key: value for key, value in options.items() if value not in _NO_AUGMENTATION}
    if "scale" not in on:
        on.pop("ratio", None)
    return {"augment": on} if on else {}


def lean_defaults(budget: float | None, device: str) -> dict[str, Any]:
    """What null stands for in the options of `train.memory=lean` on a class of devices.

    A GPU has room and wants large products, and `budget` (`train.memory_budget_mib`) chooses the chunk itself.
    """
    mib = _CHUNK_MIB if device == "cpu" and budget is None else None
    return {"chunk_size": 16, "chunk_mib": mib, "segment_size": 2, "storage": "bfloat16"}


def _defaults(parts: dict[str, dict[str, Any]]) -> list[tuple[str, str, Any]]:
    """Section, option, and the value that its null stands for, as far as that is known without a library."""
    budget = parts.get("train", {}).get("memory_budget_mib")
    of_lean = lean_defaults(budget, device_class(parts.get("device", {}).get("name", "cpu")))
    # With a budget null is what fits into it.
    found = [("train", key, value) for key, value in of_lean.items() if budget is None or key == "storage"]
    found += [("device", key, False) for key in ("tf32", "compile")]
    method, model = parts.get("method", {}), parts.get("model", {})
    of_method = null_values(method.get("name", ""), method, known_blocks(model))
    found += [("method", key, value) for key, value in of_method.items()]
    if (batch := parts.get("dataset", {}).get("batch_size")) is not None:
        found.append(("train", "micro_batch_size", batch))
    if parts.get("dataset", {}).get("name") == "synthetic":
        found.append(("dataset", "test_size", synthetic.SIZES["test"]))
    if model.get("name") in SIZES and model.get("weights") in KEYWORDS:
        found.append(("dataset", "image_size", SIZES[model["name"]]))
    return found
