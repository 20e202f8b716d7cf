"""`python -m wasi.evaluate RUN [OVERRIDE ...]`: accuracy and loss of a trained model on a data set."""

from __future__ import annotations

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from wasi.config.files import CONF, select
from wasi.config.hydra_errors import rejected
from wasi.config.naming import show
from wasi.config.validate import validate
from wasi.data import image_folder
from wasi.data.catalogue import check_dataset, dataset_identity
from wasi.errors import UserError, one_line
from wasi.models.header import ModelHeader
from wasi.models.weights_file import RUN, run_header
from wasi.runs.command import run_cli
from wasi.runs.folder import path_of
from wasi.runs.inputs import check_counts
from wasi.runs.training_data import config_of, data_of, is_own_folder

if TYPE_CHECKING:
    from wasi.data.spec import Images

_DIVIDING = tuple(f"dataset.{name}" for name in ("train_size", "val_size", "test_size", "val_source", "val_fraction"))
_OF_TRAINING = ("device.dtype", "device.compile", "device.memory_limit_mib", "dataset.hflip")


def main() -> None:
    options = _parser().parse_args()
    header = run_header(options.run)
    cfg = configuration(options.run, header, options.overrides)
    whole = takes_all(options.run, cfg, options.overrides)
    if not whole:
        check_dataset(cfg.dataset)  # before torch is imported
    images, metrics = evaluate_run(options.run, cfg, whole)
    print(f"{cfg.dataset.name}, {images}")
    for name, value in metrics.items():
        print(f"{name} {value:.4f}")


def configuration(run: Path, header: ModelHeader, overrides: Sequence[str]) -> DictConfig:
    """Return `dataset`, `seed` and `device` for the evaluation: the run's own data and seed, changed by `overrides`.

    The device is `auto` unless an override says otherwise.

    Raises:
        UserError: an override is not allowed or would divide the run's own folder anew, nothing names a data set, or
            the image size is not the model's.
    """
    before = config_of(run)
    own = not any(word.startswith("dataset=") for word in overrides)
    if own and not (isinstance(before.get("dataset"), dict) and "name" in before["dataset"]):
        raise UserError(RUN, run, "a folder with the run's result.json, or dataset=NAME beside the model")
    words = [f"dataset={before['dataset']['name']}", *overrides] if own else overrides
    cfg = _composed(words)
    given = {word.partition("=")[0] for word in overrides}
    if own or is_own_folder(run, cfg.dataset):  # with another split, images of the training could be in the test part
        _fill(cfg.dataset, before["dataset"], given, "dataset.")
    _fill(cfg, {key: before[key] for key in ("seed",) if key in before}, given)
    if is_own_folder(run, cfg.dataset):
        _refuse_another_division(cfg, before, given, data_of(run))
    validate(cfg)
    check_counts(cfg)
    size = cfg.dataset.image_size
    if size not in (None, header.input.image_size):
        raise UserError("dataset.image_size", size, f"{header.input.image_size}, the size of the model's images")
    return cfg


def _refuse_another_division(cfg: DictConfig, before: dict[str, Any], given: set[str], then: Any) -> None:
    """Raise `UserError` if the run's own folder would be divided in another way than by the run.

    It would be by a given option, or if its images are no longer those that `then` identifies, as the part of each
    depends on all of them.

    Images that the run was trained on would be among those that are held out. The test part of an undivided folder is
    the same for every seed; a folder with parts of its own for validation or test is not divided for them.
    """
    cut = image_folder.cut_parts(cfg.dataset)
    if "test" in cut:
        dividing = {"dataset.test_size", "dataset.val_fraction"}
    elif "val" in cut and image_folder.available(cfg.dataset).test is None:
        dividing = {"dataset.val_size", "dataset.val_fraction", "seed"}
    else:
        return
    now = dataset_identity(cfg.dataset)["content"]
    if isinstance(then, dict) and isinstance(now, dict) and then != now:
        allowed = f"this folder only with the {then['images']} images of the run, now there are {now['images']}"
        fault = "images have changed since the run, so that those it was trained on cannot be told apart"
        raise UserError("dataset.root", cfg.dataset.root, allowed, fault)
    for option in given & dividing:
        value, own = select(cfg, option), select(before, option)
        if value != own:
            allowed = f"{show(own)}, as in the run: otherwise it would be evaluated on images that it was trained on"
            raise UserError(option, value, allowed)


def takes_all(run: Path, cfg: DictConfig, overrides: Sequence[str]) -> bool:
    """Return whether to evaluate on all images of the data set, because none of them was trained on.

    So it is for an image folder without train, val and test inside that is not the run's own, unless an override asks
    for a split.
    """
    if cfg.dataset.name != "image_folder" or any(word.startswith(_DIVIDING) for word in overrides):
        return False
    return image_folder.is_undivided(cfg.dataset) and not is_own_folder(run, cfg.dataset)


def evaluate_run(run: Path, cfg: DictConfig, whole: bool) -> tuple[str, dict[str, float]]:
    """Evaluate the model; return a description of the images (split and number), and the metrics on them.

    The images are the `test` split of the data set if it has one, else `val`; with `whole`, all of an image folder.
    """
    import torch

    from wasi.data.loader import Loader, eval_batches
    from wasi.data.normalize import Normalize
    from wasi.models.saved import open_model
    from wasi.runs.device import prepare_device
    from wasi.training.evaluation import evaluate

    device = prepare_device(cfg.device)
    model, header = open_model(run)
    split, images, classes, description = _chosen(cfg, header, whole)
    outputs = torch.tensor(_outputs_of(classes, header, cfg.dataset.name))
    batches = eval_batches(Loader(images, cfg.dataset.num_workers, device), cfg.dataset.batch_size)
    by_output = ((batch, outputs[labels]) for batch, labels in batches)
    found = evaluate(model.to(device), by_output, Normalize(header.input))
    return description, found.metrics(split)


def _chosen(cfg: DictConfig, header: ModelHeader, whole: bool) -> tuple[str, Images, list[str], str]:
    """Return the split's name, its images, the names of the data's classes, and a description of the images."""
    from wasi.data.catalogue import load_data

    if whole:
        images, classes = image_folder.load_undivided(cfg.dataset, header.input)
        return "test", images, classes, f"all {len(images)} images"
    data = load_data(cfg.dataset, header.input, cfg.seed)
    split, images = ("val", data.val) if data.test is None else ("test", data.test)
    of = ""
    if cfg.dataset.name == "image_folder":
        has = image_folder.available(cfg.dataset)
        of = f" of {has.train + (has.val or 0) + (has.test or 0)}"
    return split, images, data.classes, f"{split} split, {len(images)}{of} images"


def _outputs_of(classes: Sequence[str], header: ModelHeader, name: str) -> list[int]:
    """Return, for each class of the data, the index of the model's output with the same class name."""
    unknown = [each for each in classes if each not in header.classes]
    if unknown:
        known = ", ".join(header.classes[:5]) + (", …" if header.num_classes > 5 else "")
        allowed = f"a data set of the model's classes ({known}); {unknown[0]} is none of them"
        raise UserError("dataset", name, allowed)
    return [header.classes.index(each) for each in classes]


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
        text = one_line(error)
        raise rejected(error, overrides, sweeps=False) or UserError("OVERRIDE", " ".join(overrides), text) from None
    except OSError:  # such as that of a deleted working folder, which `run_cli` tells
        raise
    except Exception as error:  # such as those of Hydra's parser and OmegaConf
        text = f"KEY=VALUE of Hydra; {one_line(error)}"
        raise rejected(error, overrides, sweeps=False) or UserError("OVERRIDE", " ".join(overrides), text) from None
    return OmegaConf.masked_copy(cfg, list(sections))


def _fill(node: DictConfig, values: dict[str, Any], given: set[str], prefix: str = "") -> None:
    """Set the options of `node` to the run's `values`, if the option still exists and was not `given`."""
    for key, value in values.items():
        if key in node and f"{prefix}{key}" not in given:
            node[key] = value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.evaluate",
        description="Accuracy, loss and balanced accuracy of a finished run's model on the test split (where "
        "there is none, the validation split) of the run's own data, or of those that overrides name; of another "
        "folder that is not divided into train, val and test, on all images.",
        epilog="Example: python -m wasi.evaluate RUN dataset=image_folder dataset.root=FOLDER device=cpu",
    )
    a_run = "a finished run's folder, or its model.safetensors"
    parser.add_argument("run", metavar="RUN", type=path_of(RUN), help=a_run)
    parser.add_argument(
        "overrides", metavar="OVERRIDE", nargs="*", help="dataset=…, dataset.…=…, device=… or seed=…"
    )
    return parser


if __name__ == "__main__":
    run_cli(main)
