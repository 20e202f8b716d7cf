"""`python -m wasi.evaluate RUN [OVERRIDE ...]`: accuracy and loss of a trained model on a data set."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from wasi.cli import run_cli
from wasi.config.files import CONF
from wasi.config.rejected import rejected
from wasi.config.validate import validate
from wasi.data.catalogue import check_dataset
from wasi.errors import UserError
from wasi.models.header import ModelHeader
from wasi.models.weights_file import RUN, run_header, weights_path
from wasi.runs.ending import one_line
from wasi.runs.result import read_result

if TYPE_CHECKING:
    from wasi.data.spec import Data

_OF_TRAINING = ("device.dtype", "device.compile", "device.memory_limit_mib", "dataset.hflip")


def main() -> None:
    options = _parser().parse_args()
    header = run_header(options.run)
    cfg = configuration(options.run, header, options.overrides)
    check_dataset(cfg.dataset)  # before torch is imported
    split, count, metrics = evaluate_run(options.run, cfg)
    print(f"{cfg.dataset.name}, {split} split, {count} images")
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")


def configuration(run: Path, header: ModelHeader, overrides: Sequence[str]) -> DictConfig:
    """`dataset` and `seed` are the run's own and `device` is `auto`, as far as `overrides` do not say otherwise.

    Raises UserError for an override that is not allowed, and where nothing names a data set.
    """
    found = (read_result(weights_path(run).parent) or {}).get("config")
    before = found if isinstance(found, dict) else {}
    own = not any(word.startswith("dataset=") for word in overrides)
    if own and not (isinstance(before.get("dataset"), dict) and "name" in before["dataset"]):
        raise UserError(RUN, run, "a folder with the run's result.json, or dataset=NAME beside the model")
    words = [f"dataset={before['dataset']['name']}", *overrides] if own else overrides
    cfg = _composed(words)
    given = {word.partition("=")[0] for word in overrides}
    if own:
        _fill(cfg.dataset, before["dataset"], given, "dataset.")
    _fill(cfg, {key: before[key] for key in ("seed",) if key in before}, given)
    validate(cfg)
    size = cfg.dataset.image_size
    if size not in (None, header.input.image_size):
        raise UserError("dataset.image_size", size, f"{header.input.image_size}, the size of the model's images")
    return cfg


def evaluate_run(run: Path, cfg: DictConfig) -> tuple[str, int, dict[str, float]]:
    """Name of the split (`test` where the data set has one, else `val`), its size, and the measures on it."""
    import torch

    from wasi.data.catalogue import load_data
    from wasi.data.loader import Loader, eval_batches
    from wasi.data.normalize import Normalize
    from wasi.models.saved import open_model
    from wasi.runs.device import prepare_device
    from wasi.training.evaluation import evaluate

    device = prepare_device(cfg.device)
    model, header = open_model(run)
    data = load_data(cfg.dataset, header.input, cfg.seed)
    split = "test" if data.test is not None else "val"
    images = getattr(data, split)
    outputs = torch.tensor(_outputs_of(data, header, cfg.dataset.name))
    batches = eval_batches(Loader(images, cfg.dataset.num_workers, device), cfg.dataset.batch_size)
    by_output = ((batch, outputs[labels]) for batch, labels in batches)
    found = evaluate(model.to(device), by_output, Normalize(header.input))
    return split, len(images), found.metrics(split)


def _outputs_of(data: Data, header: ModelHeader, name: str) -> list[int]:
    """The model's output for each class of the data, by its name."""
    unknown = [each for each in data.classes if each not in header.classes]
    if unknown:
        classes = ", ".join(header.classes[:5]) + (", …" if header.num_classes > 5 else "")
        allowed = f"a data set of the model's classes ({classes}); {unknown[0]} is none of them"
        raise UserError("dataset", name, allowed)
    return [header.classes.index(each) for each in data.classes]


def _composed(overrides: Sequence[str]) -> DictConfig:
    import wasi.config.resolvers  # noqa: F401

    sections = ("dataset", "device", "seed")
    for word in overrides:
        option, equals, value = word.partition("=")
        if option.partition(".")[0] not in sections or not equals:
            raise UserError("OVERRIDE", word, "dataset=NAME, dataset.OPTION=VALUE, device=NAME or seed=N")
        if option in _OF_TRAINING:
            allowed = "for train.py and bench_device.py; a model is evaluated in float32, on images as they are"
            raise UserError(option, value, allowed)
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [*overrides, "logger=none"])
    except ConfigCompositionException as error:
        raise rejected(error, overrides) or UserError("OVERRIDE", " ".join(overrides), one_line(str(error))) from None
    except Exception as error:  # Hydra's parser and OmegaConf have classes of their own
        told = f"KEY=VALUE of Hydra; {one_line(str(error))}"
        raise rejected(error, overrides) or UserError("OVERRIDE", " ".join(overrides), told) from None
    return OmegaConf.masked_copy(cfg, list(sections))


def _fill(node: DictConfig, values: dict[str, Any], given: set[str], prefix: str = "") -> None:
    """The run's values into `node`, where the option still exists and was not `given`."""
    for key, value in values.items():
        if key in node and f"{prefix}{key}" not in given:
            node[key] = value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.evaluate",
        description="Accuracy, loss and balanced accuracy of a finished run's model on the test split (where "
        "there is none, the validation split) of the run's own data, or of those that overrides name.",
        epilog="Example: python -m wasi.evaluate RUN dataset=image_folder dataset.root=FOLDER device=cpu",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="a finished run's folder, or its model.safetensors")
    parser.add_argument(
        "overrides", metavar="OVERRIDE", nargs="*", help="dataset=…, dataset.…=…, device=… or seed=…"
    )
    return parser


if __name__ == "__main__":
    run_cli(main)
