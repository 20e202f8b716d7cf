"""Which options distinguish configurations, and how reports write them."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from wasi.config.files import flat, select
from wasi.config.fingerprint import canonical
from wasi.config.naming import show
from wasi.config.rank_thresholds import activation_epsilon, rank_option, rank_options, share, weight_epsilon
from wasi.config.relevance import relevant
from wasi.paths import without_absolute_paths

_IDENTITY = ("model.name", "dataset.name", "method.name", "method._target_", "method.scope")


def named(config: Mapping) -> set[str]:
    """The options that every table shows anyway, so that they need no column when they differ."""
    return {*_IDENTITY, *rank_options(config)}


def result_options(config: Mapping) -> dict[str, Any]:
    """The value of every option that can change a result, except the seed, by dotted key."""
    seed = config.get("seed")
    options = flat(relevant(config))
    options = {k: v for k, v in options.items() if not (k.endswith(".seed") and v == seed)}
    if (root := data_root(config)) is not None:
        options["dataset.root"] = root
    if rank_options(config) & options.keys():
        options["rank.calibration_batches"] = select(config, "rank.calibration_batches")
    return canonical(options)


def model_label(config: Mapping) -> str:
    """The model's name, with its weights in brackets if they are not pretrained."""
    name, weights = select(config, "model.name"), select(config, "model.weights")
    return f"{name} ({weights} weights)" if weights in ("random", "surrogate") else str(name)


def unquotable(config: Mapping) -> list[str]:
    """The reasons, in two words each, why an accuracy means nothing; empty if it may be quoted."""
    reasons = {
        "surrogate weights": select(config, "model.weights") == "surrogate",
        "synthetic images": select(config, "dataset.name") == "synthetic",
    }
    return [reason for reason, holds in reasons.items() if holds]


def dataset_label(config: Mapping, others: Iterable[str | None] = ()) -> str:
    """The data set's name, with the folder of `image_folder` in brackets.

    Args:
        others: folders of other data sets, from which this one's is told apart by as many of its parents as that takes.
    """
    name, root = select(config, "dataset.name"), data_root(config)
    if not root:
        return str(name)
    shown = without_absolute_paths(root)
    alike = {other for other in others if other and other != root and without_absolute_paths(other) == shown}
    parts = PurePath(root).parts
    for count in range(len(PurePath(shown).parts), len(parts) + 1):
        if not any(PurePath(other).parts[-count:] == parts[-count:] for other in alike):
            return f"{name} ({PurePath(*parts[-count:]) if alike else shown})"
    return f"{name} ({root})"


def data_root(config: Mapping) -> str | None:
    """The folder of `image_folder`, which is the data set there; None for a data set that its name tells."""
    root = select(config, "dataset.root") if select(config, "dataset.name") == "image_folder" else None
    return str(PurePath(root)) if isinstance(root, str) else None


def weight_label(config: Mapping) -> str | None:
    """What decides the weights' ranks: `0.8`, or `keep 0.5` for a share of the parameters; None for dense weights."""
    kept, epsilon = share(config), weight_epsilon(config)
    if kept is not None:
        return f"keep {show(kept)}"
    return None if epsilon is None else show(epsilon)


def activation_label(config: Mapping) -> str | None:
    """What decides the activations' ranks: `0.8`, `16x10x40` or `perplexity`; None if they are dense."""
    selection, epsilon = rank_option(config, "activation_selection"), activation_epsilon(config)
    if selection == "fixed":
        return show(rank_option(config, "activation_ranks"))
    if selection not in (None, "epsilon"):
        return show(selection)
    return None if epsilon is None else show(epsilon)


def epsilon_label(config: Mapping) -> str | None:
    """The labels of weights and activations in one: `0.8`, `0.8/0.4`; None for a method without ranks."""
    labels = [label for label in (weight_label(config), activation_label(config)) if label is not None]
    return "/".join(dict.fromkeys(labels)) or None


def row_name(config: Mapping) -> str:
    """The name of a row of kept results: its recipe, or method, ranks and `train.memory` as in `wasi 0.8 lean`."""
    if config.get("recipe"):
        return str(config["recipe"])
    memory = select(config, "train.memory")
    parts = (select(config, "method.name"), epsilon_label(config), None if memory == "plain" else memory)
    return " ".join(part for part in parts if part)


def show_option(key: str, value: Any) -> str:
    """The value of an option by `show`, and for a class its name alone.

    >>> show_option("optimizer._target_", "torch.optim.SGD"), show_option("optimizer.lr", 0.05)
    ('SGD', '0.05')
    """
    return show(value).rpartition(".")[2] if key.endswith("._target_") else show(value)
