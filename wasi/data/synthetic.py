"""Images made on the fly, for timing and tests: 1/f noise around a pattern per class, which can be learnt."""

from wasi.data.sizes import Available
from wasi.data.spec import InputSpec, Splits

_SIZES = {"train": 512, "val": 128, "test": 128}


def available(cfg_dataset) -> Available | None:
    """None, as any number of images can be made."""
    return None


def identity(cfg_dataset) -> str:
    return "built in"


def cut_parts(cfg_dataset) -> set[str]:
    return set()


def load(cfg_dataset, spec: InputSpec) -> Splits:
    """Each split in the size asked for; the first images of a larger one are those of a smaller one.

    Under `val_source=test` there is no validation split, and `val_size` is asked of the test split.
    """
    from wasi.data.noise import CLASSES, SyntheticImages

    sizes = {split: cfg_dataset[f"{split}_size"] or size for split, size in _SIZES.items()}
    if cfg_dataset["val_source"] == "test":
        sizes = {"train": sizes["train"], "test": sizes["val"]}
    images = {split: SyntheticImages(size, split, spec) for split, size in sizes.items()}
    return Splits(images["train"], images.get("val"), images["test"], [f"pattern {c}" for c in range(CLASSES)])
