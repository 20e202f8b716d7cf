"""Applying the configured method to a model, in training and in measurements."""

from collections.abc import Callable

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.config.known_options import check_class
from wasi.data.spec import Images
from wasi.methods.calibration import Calibration, calibration_of
from wasi.methods.method import Method


def apply_method(
    cfg: DictConfig, model: nn.Module, images: Images, normalize: Callable[[Tensor], Tensor]
) -> tuple[nn.Module, Method, Calibration]:
    """Make the method of `cfg.method` and apply it to a dense model, which is changed in place.

    Args:
        images: the training images, some of which are for calibration.
        normalize: converts uint8 images to normalised float32.

    Returns:
        The model, the method, and the calibration batches that the method has used.

    Raises:
        UserError: the method cannot be made of its options, or not be applied to the model.
    """
    calibration = calibration_of(cfg, images, normalize)
    check_class(cfg.method)
    method = instantiate(cfg.method)
    return method.apply(model, calibration), method, calibration
