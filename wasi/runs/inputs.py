"""What data and model can refuse before torch is imported."""

import logging

import psutil
from omegaconf import DictConfig

from wasi.data.catalogue import check_dataset
from wasi.errors import UserError
from wasi.methods.perplexity_table import read_tables
from wasi.models.spec import check_architecture, check_image_size
from wasi.models.weights_file import KEYWORDS, saved_header, tensor_shapes

log = logging.getLogger(__name__)


def check_inputs(cfg: DictConfig) -> None:
    """Files that are not there or not what they should be; sizes that do not fit.

    Raises:
        UserError: names the option.
    """
    if cfg.dataset.image_size is not None:
        _check_batch_fits(cfg.dataset.image_size, cfg.dataset.batch_size)
        check_image_size(cfg.model.name, cfg.dataset.image_size)
    if cfg.model.weights not in KEYWORDS:
        _check_weights_file(cfg)
    if cfg.rank.perplexity_table is not None:
        read_tables(cfg.rank.perplexity_table)
    check_dataset(cfg.dataset)


def _check_batch_fits(image_size: int, batch_size: int) -> None:
    """What no machine could hold is refused before it is tried: a step needs several times its batch of images."""
    batch, memory = 3 * 4 * batch_size * image_size**2, psutil.virtual_memory().total
    if batch > memory / 4:
        allowed = f"a size at which a batch of {batch_size} images (here {batch / 2**30:.3g} GiB in float32) takes at "
        raise UserError("dataset.image_size", image_size, f"{allowed}most a quarter of {memory / 2**30:.3g} GiB memory")


def _check_weights_file(cfg: DictConfig) -> None:
    shapes, header = tensor_shapes(cfg.model.weights), saved_header(cfg.model.weights)
    check_architecture(cfg.model, header)
    if header is None or cfg.method.scope in ("all", header.scope) or not any(k.endswith(".L") for k in shapes):
        return
    log.warning(
        "model.weights=%s was made with method.scope=%s: with %s, its factors outside it become dense weights",
        cfg.model.weights, header.scope, cfg.method.scope,
    )  # fmt: skip
