"""What data and model can refuse before torch is imported."""

from omegaconf import DictConfig

from wasi.data.check import check_dataset
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
    check_dataset(cfg.dataset)
