"""The images that a run's model was trained on, as far as the result beside the model tells."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from wasi.config.files import select
from wasi.data.catalogue import dataset_identity, kind_of
from wasi.models.weights_file import weights_path
from wasi.paths import expanded
from wasi.runs.result import read_result


def config_of(run: str | Path) -> dict[str, Any]:
    """Return the run's configuration; empty for a model without a result beside it."""
    found = (read_result(weights_path(run).parent) or {}).get("config")
    return found if isinstance(found, dict) else {}


def data_of(run: str | Path) -> Any:
    """Return what identifies the images of the run's folder; None for other data, or without a result."""
    return select(read_result(weights_path(run).parent) or {}, "provenance.data")


def is_own_folder(run: str | Path, cfg_dataset: DictConfig) -> bool:
    """Return whether this is the image folder that the run was trained on, even if it has been moved."""
    data = config_of(run).get("dataset")
    if not isinstance(data, dict) or not data.get("name") == cfg_dataset.name == "image_folder":
        return False
    before, now = (expanded(str(root)).resolve() for root in (data.get("root"), cfg_dataset.root))
    if before == now:
        return True
    known = data_of(run)
    return known not in (None, "absent") and dataset_identity(cfg_dataset)["content"] == known


def parts_seen(run: str | Path, cfg: DictConfig) -> list[str]:
    """Return which of "test" and "val" may hold images that the run was trained on, as it divided the data otherwise.

    For a part without a published split, the division depends on its size and, for "val", on the seed; in an image
    folder also on all images. "val" is drawn from what "test" leaves.
    """
    before = config_of(run)
    name, is_folder = cfg.dataset.name, cfg.dataset.name == "image_folder"
    if select(before, "dataset.name") != name or (is_folder and not is_own_folder(run, cfg.dataset)):
        return []
    changed = {option for option in ("seed", "dataset.val_source") if select(before, option) != select(cfg, option)}
    changed |= {part for part in ("val", "test") if _size(before, part) != _size(cfg, part)}
    if is_folder and data_of(run) not in (None, dataset_identity(cfg.dataset)["content"]):
        changed.add("images")
    cut = kind_of(cfg.dataset).cut_parts(cfg.dataset)
    seen = ["test"] if "test" in cut and changed & {"images", "test"} else []
    dividing = {"images", "seed", "val"} if "val" in cut else set()
    if cfg.dataset.val_source != "test" and (seen or changed & {*dividing, "dataset.val_source"}):
        seen.append("val")
    return seen


def _size(config: Mapping[str, Any], part: str) -> tuple[Any, Any]:
    """Return the size of "val" or "test" that a configuration asks for, and the share that decides where it is null."""
    size = select(config, f"dataset.{part}_size")
    return size, select(config, "dataset.val_fraction") if size is None else None
