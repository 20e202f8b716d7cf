"""Every data set by name, and what is known and refused before torch is imported. No torch at import."""

from collections.abc import Set
from types import ModuleType

from wasi.data import digits, fashion_mnist, image_folder, published, synthetic
from wasi.data.sizes import check_sizes
from wasi.errors import UserError

_KINDS: dict[str, ModuleType] = {
    **dict.fromkeys(published.ARCHIVES, published),
    "fashion_mnist": fashion_mnist,
    "digits": digits,
    "image_folder": image_folder,
    "synthetic": synthetic,
}
NAMES = tuple(_KINDS)
_PLACES = ("root", "download", "num_workers")  # where the bytes lie and how they are fetched


def kind_of(cfg_dataset) -> ModuleType:
    """The module that knows this kind of data set.

    Its `load(cfg, spec)` gives the published splits. Its other functions import no torch and read no image:
    `available(cfg)` counts the images of those splits (None where a download has to come first) and raises
    UserError where the data are not there; `identity(cfg)` says what the data are; `cut_parts(cfg)` names the
    parts that have no split of their own and are cut out of the training images.

    Raises:
        UserError: there is no such data set.
    """
    name = cfg_dataset["name"]
    if name not in _KINDS:
        raise UserError("dataset.name", name, ", ".join(NAMES))
    return _KINDS[name]


def check_dataset(cfg_dataset) -> None:
    """Refuse data that are not there, or too few. Opens no image.

    Raises:
        UserError: names `dataset.root` and where it looked, or the size that is too large.
    """
    available = kind_of(cfg_dataset).available(cfg_dataset)
    if available is not None:
        check_sizes(cfg_dataset, available)


def dataset_identity(cfg_dataset) -> dict:
    """JSON-able; equal exactly when the same images are used in the same way, wherever they lie. Never raises.

    Its "content" is "absent" where files that are read as they are cannot be found. `val_fraction` counts only
    where it decides how large a part is.
    """
    content, cut = "absent", {"val", "test"}
    try:
        kind = kind_of(cfg_dataset)
        cut = kind.cut_parts(cfg_dataset)
        content = kind.identity(cfg_dataset)
    except (UserError, OSError, EOFError, ValueError):
        pass
    idle = {*_PLACES, *(() if _fraction_counts(cfg_dataset, cut) else ("val_fraction",))}
    choices = {str(key): cfg_dataset[key] for key in cfg_dataset if key not in idle}
    return {**choices, "name": str(cfg_dataset["name"]), "content": content}


def _fraction_counts(cfg_dataset, cut: Set[str]) -> bool:
    """Whether `val_fraction` decides how large a part is."""
    held = set() if cfg_dataset.get("val_source") == "test" else {"val"}
    return any(cfg_dataset.get(f"{part}_size") is None for part in cut & (held | {"test"}))
