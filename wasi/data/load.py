"""From `cfg.dataset` to training and validation images."""

import importlib

from wasi.data.catalogue import PUBLISHED, check_sizes
from wasi.data.check import check_dataset
from wasi.data.spec import Data, InputSpec
from wasi.data.splits import choose


def load_data(cfg_dataset, spec: InputSpec, seed: int) -> Data:
    """The images that this run uses, as the model wants them; `seed` decides only which ones.

    Raises:
        UserError: the data are missing, broken or too few, or could not be downloaded.
    """
    check_dataset(cfg_dataset)
    name = cfg_dataset["name"]
    module = "published" if name in PUBLISHED else name
    data = importlib.import_module(f"wasi.data.{module}").load(cfg_dataset, spec)
    if name == "synthetic":  # made to the size asked for
        return data
    check_sizes(cfg_dataset, len(data.train), len(data.val))
    return Data(
        choose(data.train, cfg_dataset["train_size"], seed, "train"),
        choose(data.val, cfg_dataset["val_size"], seed, "val"),
        data.classes,
    )
