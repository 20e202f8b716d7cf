"""The model and training step that a benchmark measures, built as train.py builds them, with a fixed batch."""

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
from wasi.methods.apply import apply_method
from wasi.models.build import model_of
from wasi.models.input_spec import input_spec
from wasi.runs.set_up import set_up
from wasi.training.build_step import build_step

_LIBRARIES = {"torchvision": "torchvision.models", "timm": "timm", "wasi": "timm.models.vision_transformer"}


class Subject:
    """The model, step and batch of a configuration. The constructor loads the data, which stay until `free_data`.

    After `build`: `method` is the one applied, `step` makes one whole optimizer step, `batch` holds its two arguments.

    Args:
        cfg: the configuration.
        smaller: whether the batch may have fewer images than `dataset.batch_size` if the training set has.

    Raises:
        UserError: the data cannot be loaded, or have fewer images than a batch and `smaller` is false.
    """

    def __init__(self, cfg: DictConfig, smaller: bool = False):
        self.cfg = cfg
        self.device = set_up(cfg)
        self.spec = input_spec(cfg.model, cfg.dataset.image_size)
        self.data = load_data(cfg.dataset, self.spec, cfg.seed)
        available, size = len(self.data.train), cfg.dataset.batch_size
        if available < size and smaller:
            cfg.dataset.batch_size = available
        elif available < size:
            raise UserError("dataset.batch_size", size, f"at most {available}, the number of training images")
        self._batch = first_batch(self.data.train, cfg)
        self.normalize = Normalize(self.spec)
        # Imported now, so that the memory of imports does not count as that of building the model.
        import_light(_LIBRARIES[cfg.model.library])
        hydra.utils.get_class(cfg.method._target_)

    def build(self) -> None:
        """Build the model, the step and the batch."""
        model = self.model()
        self.step = build_step(model, self.normalize, self.cfg, self.method)
        self.batch = self.step.prepare(*self._batch)

    def free_data(self) -> None:
        """Free the data set, which a step on `batch` does not need."""
        del self.data, self._batch

    def model(self, prepare: Callable[[nn.Module], object] = lambda model: None) -> nn.Module:
        """Build the library's model, call `prepare` on it, and return it with the method applied."""
        model = model_of(self.cfg, self.data, self.spec, self.device)
        prepare(model)
        model, self.method, _ = apply_method(self.cfg, model, self.data.train, self.normalize)
        return model

    def first(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the first `size` images and labels of the batch, repeated where it has fewer."""
        images, labels = self._batch
        indices = torch.arange(size) % len(images)
        return images[indices], labels[indices]

    def images(self) -> Tensor:
        """Return the batch's images normalised for inference; not kept, as training with `lean` holds them as uint8."""
        images = self.batch[0]
        return images if images.is_floating_point() else self.normalize(images)
