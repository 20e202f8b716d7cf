"""What is measured: a configuration's model, built as train.py builds it, and its first training batch."""

from collections.abc import Callable

import hydra
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from wasi.data.catalogue import load_data
from wasi.data.loader import first_batch
from wasi.data.normalize import Normalize
from wasi.deferred import import_light
from wasi.errors import UserError
from wasi.methods.calibration import Calibration
from wasi.models.build import build_model
from wasi.models.input_spec import input_spec
from wasi.runs.device import prepare_device
from wasi.training.build_step import build_step, prepare_allocator
from wasi.training.compile import check_compiler

_LIBRARIES = {"torchvision": "torchvision.models", "timm": "timm", "wasi": "timm.models.vision_transformer"}


class Subject:
    """Data at once, the model on `build`.

    Args:
        cfg: the configuration; smaller: whether the batch may be of fewer images than `dataset.batch_size`, where the
            data set has no more, instead of being refused.

    method: applied to the model; step: one whole optimizer step; batch: its two arguments.
    """

    def __init__(self, cfg: DictConfig, smaller: bool = False):
        self.cfg = cfg
        self.device = prepare_device(cfg.device)
        prepare_allocator(cfg.train.memory)
        check_compiler(cfg.device.compile, self.device)
        torch.manual_seed(cfg.seed)
        self.spec = input_spec(cfg.model, cfg.dataset.image_size)
        self.data = load_data(cfg.dataset, self.spec, cfg.seed)
        available, size = len(self.data.train), cfg.dataset.batch_size
        if available < size and smaller:
            cfg.dataset.batch_size = available
        elif available < size:
            raise UserError("dataset.batch_size", size, f"at most {available}, the number of training images")
        self._batch = first_batch(self.data.train, cfg)
        self.normalize = Normalize(self.spec)
        # Imports are no part of what building costs.
        import_light(_LIBRARIES[cfg.model.library])
        hydra.utils.get_class(cfg.method._target_)

    def build(self) -> None:
        model = self.model()
        self.step = build_step(model, self.normalize, self.cfg, self.method)
        self.batch = self.step.prepare(*self._batch)
        del self.data, self._batch

    def model(self, prepare: Callable[[nn.Module], object] = lambda model: None) -> nn.Module:
        """With the method applied to what `prepare` has made of the library's model."""
        cfg, data = self.cfg, self.data
        mapped = self.device.type == "cpu"
        model = build_model(cfg.model, data.num_classes, self.spec, cfg.seed, mapped).to(self.device)
        prepare(model)
        calibration = Calibration(
            data.train, self.normalize, cfg.dataset.batch_size, cfg.rank.calibration_batches, cfg.seed
        )
        self.method = hydra.utils.instantiate(cfg.method)
        return self.method.apply(model, calibration)

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        """The first images of the batch as the loader gives it, over again where it has fewer; before `build`."""
        images, labels = self._batch
        places = torch.arange(size) % len(images)
        return images[places], labels[places]

    def images(self) -> Tensor:
        """The batch as inference sees it, made when it is asked for: training holds its own form alone."""
        images = self.batch[0]
        return images if images.is_floating_point() else self.normalize(images)
