"""What data and model can refuse before torch is imported."""

from omegaconf import DictConfig

from wasi.data.catalogue import check_dataset
from wasi.methods.perplexity_table import read_tables
from wasi.models.spec import check_image_size
from wasi.models.weights_file import KEYWORDS, tensor_shapes


def check_inputs(cfg: DictConfig) -> None:
    """Files that are not there or not what they should be; sizes that do not fit.

    Raises:
        UserError: names the option.
    """
    if cfg.dataset.image_size is not None:
        check_image_size(cfg.model.name, cfg.dataset.image_size)
    if cfg.model.weights not in KEYWORDS:
        tensor_shapes(cfg.model.weights)
    if cfg.rank.perplexity_table is not None:
        read_tables(cfg.rank.perplexity_table)
    check_dataset(cfg.dataset)
