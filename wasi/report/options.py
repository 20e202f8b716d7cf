"""What distinguishes one configuration from another, and how that is written down."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from wasi.config.declared import rank_option_places
from wasi.config.files import flat
from wasi.config.fingerprint import canonical
from wasi.config.relevance import relevant
from wasi.tracking.paths import without_absolute_paths

# `rank` options that labels are made of, and where methods have them whose YAML does not tell.
_RANK_OPTIONS = {
    "weight_epsilon": "weight_epsilon",
    "keep_ratio": "keep_ratio",
    "activation_selection": "activations.selection",
    "activation_epsilon": "activations.epsilon",
    "activation_ranks": "activations.ranks",
}
_IDENTITY = ("model.name", "dataset.name", "method.name", "method._target_", "method.scope")


def named(config: Mapping) -> set[str]:
    """Options that have a place of their own in every table, so that they need no column of differences."""
    return {*_IDENTITY, *rank_options(config)}


def rank_options(config: Mapping) -> set[str]:
    """Options of the method that decide ranks and are told by a label."""
    return {"method.activations._target_", *(_place(config, option) for option in _RANK_OPTIONS)}


def _place(config: Mapping, option: str) -> str:
    """Where a method has an option of `rank`, as a dotted key: under the name that its YAML gives it."""
    places = rank_option_places(str(select(config, "method.name")))
    return f"method.{places.get(option, _RANK_OPTIONS[option])}"


def result_options(config: Mapping) -> dict[str, Any]:
    """Every option that can change a result, seeds apart, as dotted key -> value."""
    seed = config.get("seed")
    options = flat(relevant(config))
    options = {k: v for k, v in options.items() if not (k.endswith(".seed") and v == seed)}
    if select(config, "dataset.name") == "image_folder":  # there the folder is the data set
        options["dataset.root"] = select(config, "dataset.root")
    if rank_options(config) & options.keys():
        options["rank.calibration_batches"] = select(config, "rank.calibration_batches")
    return canonical(options)


def select(config: Mapping, key: str) -> Any:
    """The value at a dotted `key`; None where there is none.

    >>> select({"model": {"name": "vit"}}, "model.name")
    'vit'
    """
    value: Any = config
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def model_label(config: Mapping) -> str:
    """The name; weights that are not pretrained are always told."""
    name, weights = select(config, "model.name"), select(config, "model.weights")
    return f"{name} ({weights} weights)" if weights in ("random", "surrogate") else str(name)


def unquotable(config: Mapping) -> list[str]:
    """Why an accuracy says nothing, in two words each; empty where it may be quoted."""
    told = {
        "surrogate weights": select(config, "model.weights") == "surrogate",
        "synthetic images": select(config, "dataset.name") == "synthetic",
    }
    return [reason for reason, holds in told.items() if holds]


def dataset_label(config: Mapping) -> str:
    name, root = select(config, "dataset.name"), select(config, "dataset.root")
    return f"{name} ({without_absolute_paths(root)})" if name == "image_folder" and root else str(name)


def weight_epsilon(config: Mapping) -> float | None:
    """None where the method does not read it: another method, or a share of parameters is given instead."""
    return select(config, _place(config, "weight_epsilon")) if _share(config) is None else None


def activation_epsilon(config: Mapping) -> float | None:
    """None where no activation is compressed, or its ranks are decided otherwise."""
    selection = select(config, _place(config, "activation_selection"))
    return select(config, _place(config, "activation_epsilon")) if selection in (None, "epsilon") else None


def threshold(config: Mapping) -> float | None:
    """The one by which figures place a row: of the weights, or where these are dense of the activations."""
    found = weight_epsilon(config)
    return activation_epsilon(config) if found is None and weight_label(config) is None else found


def weight_label(config: Mapping) -> str | None:
    """What decides the weights' ranks: `0.8`, or `keep 0.5` of the parameters; None where nothing does."""
    share, epsilon = _share(config), weight_epsilon(config)
    if share is not None:
        return f"keep {show(share)}"
    return None if epsilon is None else show(epsilon)


def _share(config: Mapping) -> float | None:
    """The share of parameters that a method keeps, where one is given in place of a threshold."""
    given = (select(config, key) for key in (_place(config, "keep_ratio"), "method.parameter_ratio"))
    return next((share for share in given if share is not None), None)


def activation_label(config: Mapping) -> str | None:
    """What decides the activations' ranks: `0.8`, `16x10x40` or `perplexity`; None where nothing does."""
    selection, epsilon = select(config, _place(config, "activation_selection")), activation_epsilon(config)
    if selection == "fixed":
        return show(select(config, _place(config, "activation_ranks")))
    if selection not in (None, "epsilon"):
        return show(selection)
    return None if epsilon is None else show(epsilon)


def epsilon_label(config: Mapping) -> str | None:
    """Both in one, for a point of a figure: `0.8`, `0.8/0.4`; None for a method without ranks."""
    labels = [label for label in (weight_label(config), activation_label(config)) if label is not None]
    return "/".join(dict.fromkeys(labels)) or None


def row_name(config: Mapping) -> str:
    """Of a row of kept results: its recipe, or what tells the method and its ranks: `wasi 0.8 lean`."""
    if config.get("recipe"):
        return str(config["recipe"])
    memory = select(config, "train.memory")
    parts = (select(config, "method.name"), epsilon_label(config), None if memory == "plain" else memory)
    return " ".join(part for part in parts if part)


def show(value: Any) -> str:
    """As on the command line, except for lists of ranks and paths.

    >>> [show(v) for v in (None, True, 0.05, 1.0, [16, 10, 40], "a/b/c.safetensors")]
    ['null', 'true', '0.05', '1', '16x10x40', 'c.safetensors']
    """
    value = canonical(value)
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list) and all(isinstance(item, int) for item in value):
        return "x".join(map(str, value))
    if isinstance(value, str) and value.endswith(".safetensors"):
        return PurePath(value).name
    return str(without_absolute_paths(value))


def show_option(key: str, value: Any) -> str:
    """`show`, and of a class its name.

    >>> show_option("optimizer._target_", "torch.optim.SGD"), show_option("optimizer.lr", 0.05)
    ('SGD', '0.05')
    """
    return show(value).rpartition(".")[2] if key.endswith("._target_") else show(value)
