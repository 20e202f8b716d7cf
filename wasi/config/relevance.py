"""Which options can change a run's result: the one list on which fingerprints and the groups of reports rely.

What counts as the same configuration depends on who asks. For a run it is `wasi.config.fingerprint.fingerprint`, with
the seed, and with weights and data by content: it names folders, lets completed runs be skipped and reports count a run
once. For a row of a table it is `wasi.report.options.result_options`, read from results: all that can change one except
the seed. For benchmarks in reports it is `wasi.report.benchmarks.bench_options`, those of them that a step and its
device depend on, or `step_options`, those that a step's costs do; for a baseline that several were measured beside, it
is `measured_key`, with the kind of machine. For memory and work, which a sweep of benchmarks measures once, it is
`wasi.bench.baseline.identity`: step, device, data and seed. For a benchmark's job it is the fingerprint with `_how` of
`wasi.bench.job_identity`, the options of `bench` and the baseline's `rank`: it names the job's folder and tells whether
it is done.
"""

from collections.abc import Mapping
from typing import Any

from wasi.config.declared import null_values
from wasi.config.hardware import device_class
from wasi.data import catalogue, synthetic
from wasi.models.input_spec import known_image_size

# Without `rank`: the options of it that a method reads are interpolated into `method`.
SECTIONS = ("model", "dataset", "augment", "method", "optimizer", "scheduler", "train", "device")
_WITHOUT_EFFECT = {
    "dataset": catalogue.PLACES,
    "train": ("checkpoint_every", "eval_every", "on_oom", "rerun", "save", "measure", "monitor"),
    "device": ("memory_limit_mib",),
}
_NOT_OF_A_STEP = (
    "scheduler.",
    "device.name",
    "device.num_threads",
    "train.epochs",
    "train.select",
    "train.eval_every",
    "dataset.train_size",
    "dataset.val_",
    "dataset.test_size",
)
_NO_AUGMENTATION = (None, 0)
_CALIBRATED = ("eva", "corda")  # values of `method.type`, of peft, that start from calibration data
_CHUNK_MIB = 5  # the widest output of a layer of ViT-B/32 for 8 images: 8 x 50 x 3072 float32


def relevant(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a resolved configuration without options of no effect, with null for explicit defaults.

    The result is equal for two configurations that differ in bookkeeping, in `device.name` within one class of devices,
    in `train.micro_batch_size` = `dataset.batch_size` or null, and the like. Seeds inside a section are kept.
    """
    parts = {
        name: {key: value for key, value in config[name].items() if key not in _WITHOUT_EFFECT.get(name, ())}
        for name in SECTIONS
        if isinstance(config.get(name), Mapping)
    }
    parts |= _augmentation(parts.pop("augment", {}))
    if parts.get("train", {}).get("select") == "best":  # the best epoch is chosen among those that are evaluated
        parts["train"]["eval_every"] = config["train"]["eval_every"]
    train = parts.get("train", {})
    if all(train.get(key) is not None for key in ("chunk_size", "chunk_mib", "segment_size")):
        train["memory_budget_mib"] = None  # which leaves nothing for the budget to choose
    for name, key, default in _defaults(parts):
        if parts.get(name, {}).get(key) == default:
            parts[name][key] = None
    data = parts.get("dataset", {})
    if data.get("name") == "synthetic":  # whose file has these sizes written out, so that here null becomes the number
        sizes = {f"{part}_size": synthetic.SIZES[part] for part in ("train", "val")}
        data |= {key: size for key, size in sizes.items() if key in data and data[key] is None}
    if "method" in parts:
        parts["method"] = in_one_form(parts["method"])
    if "name" in parts.get("device", {}):
        parts["device"]["name"] = device_class(parts["device"]["name"])
    return parts


def has_effect(option: str) -> bool:
    """Return whether an option of a command line can change a run's result.

    Options of `tune` do not count: the values that they make a run try are in that run's own configuration.

    >>> [has_effect(option) for option in ("train.epochs", "train.rerun", "logger", "+tune.lr")]
    [True, False, False, False]
    """
    section, _, key = option.lstrip("+").partition(".")
    return section not in ("logger", "sweep", "tune") and key not in _WITHOUT_EFFECT.get(section, ())


def is_of_a_step(key: str) -> bool:
    """Return whether an option that `relevant` keeps, by dotted key, can change a training step on a given device.

    >>> [is_of_a_step(key) for key in ("optimizer.lr", "device.dtype", "device.num_threads", "train.epochs")]
    [True, True, False, False]
    """
    return not key.startswith(_NOT_OF_A_STEP)


def in_one_form(method: dict[str, Any]) -> dict[str, Any]:
    """Return a method's options with those of no effect beside the others at their defaults.

    `token_epsilon` is null if it equals `epsilon`, which is what null stands for. `merge` is true beside a quantized
    `base`, whose adapters are merged with neither value. `calibration_batches` is 1 with a type of peft's adapters that
    uses none.

    >>> in_one_form({"activations": {"epsilon": 0.8, "token_epsilon": 0.8}})
    {'activations': {'epsilon': 0.8, 'token_epsilon': None}}
    >>> in_one_form({"base": "nf4", "merge": False})
    {'base': 'nf4', 'merge': True}
    >>> in_one_form({"name": "peft", "type": "dora", "calibration_batches": 4})["calibration_batches"]
    1
    """
    if method.get("base") is not None and "merge" in method:
        method = {**method, "merge": True}
    if not starts_from_data(method) and "calibration_batches" in method:
        method = {**method, "calibration_batches": 1}
    found = method.get("activations")
    if not isinstance(found, Mapping) or found.get("token_epsilon") != found.get("epsilon"):
        return method
    return {**method, "activations": {**found, "token_epsilon": None}}


def starts_from_data(method: Mapping[str, Any]) -> bool:
    """Return whether a method may use calibration data: any but one of peft's adapters that start without them."""
    return method.get("name") != "peft" or method.get("type") in _CALIBRATED


def _augmentation(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the section `augment` with what is switched on, and no section if nothing is.

    Runs from before the project had augmentation lack the section and keep their fingerprints this way.
    """
    on = {key: value for key, value in options.items() if value not in _NO_AUGMENTATION}
    if "scale" not in on:
        on.pop("ratio", None)
    return {"augment": on} if on else {}


def lean_defaults(budget: float | None, device: str) -> dict[str, Any]:
    """Return what null stands for in the options of `train.memory=lean` (None: no such limit, or not known here).

    A GPU has no default limit in MiB, as it has more memory and is faster with large products.

    Args:
        budget: `train.memory_budget_mib`, by which the chunk is chosen if it is given.
        device: a class of devices, `cpu` or `cuda`.
    """
    mib = _CHUNK_MIB if device == "cpu" and budget is None else None
    return {"chunk_size": 16, "chunk_mib": mib, "segment_size": 2, "storage": "bfloat16"}


# Options that say how a step saves memory, by dotted key, with their values where it saves none.
MEMORY_POLICY: dict[str, Any] = {
    "train.memory": "plain",
    "train.micro_batch_size": None,
    "train.gradient_checkpointing": False,
    "train.step_in_backward": False,
    "train.memory_budget_mib": None,
    **{f"train.{option}": None for option in lean_defaults(None, "cpu")},
}


def _defaults(parts: dict[str, dict[str, Any]]) -> list[tuple[str, str, Any]]:
    """List (section, option, the value that null stands for), where that is known.

    No library is imported, but timm for a model of its own that is not in `wasi.models.input_spec.SIZES`, where the
    image size is written out.
    """
    budget = parts.get("train", {}).get("memory_budget_mib")
    of_lean = lean_defaults(budget, device_class(parts.get("device", {}).get("name", "cpu")))
    # With a budget, null stands for whatever fits into it, which is not known here.
    found = [("train", key, value) for key, value in of_lean.items() if budget is None or key == "storage"]
    found += [("device", key, False) for key in ("tf32", "compile")]
    method = parts.get("method", {})
    found += [("method", key, value) for key, value in null_values(str(method.get("name", "")), method).items()]
    if (batch := parts.get("dataset", {}).get("batch_size")) is not None:
        found.append(("train", "micro_batch_size", batch))
    if parts.get("dataset", {}).get("name") == "synthetic":
        found.append(("dataset", "test_size", synthetic.SIZES["test"]))
    if parts.get("dataset", {}).get("image_size") is not None:
        found.append(("dataset", "image_size", known_image_size(parts.get("model", {}))))
    if str(parts.get("optimizer", {}).get("_target_")).startswith("wasi.training.baselines."):
        # The files of galore, apollo and adamw8bit had no such option at first; runs from then keep their fingerprints.
        found.append(("optimizer", "head_lr_ratio", 1.0))
    return found
