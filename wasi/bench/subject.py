"""What is measured: a configuration's model, built as train.py builds it, and its first training batch."""

import importlib

import hydra
import torch
from omegaconf import DictConfig

from wasi.data.load import load_data
from wasi.data.loader import first_batch
from wasi.data.normalize import Normalize
from wasi.errors import UserError
from wasi.methods.calibration import Calibration
from wasi.models.build import build_model
from wasi.models.spec import input_spec
from wasi.runs.device import prepare_device
from wasi.training.build import build_step

_LIBRARIES = {"torchvision": "torchvision.models", "timm": "timm.models", "wasi": "timm.models"}


class Subject:
    """Data at once, the model on `build`.

    method: applied to the model; step: one whole optimizer step; batch: its two arguments; images: the batch as
    inference sees it.
    """

    def __init__(self, cfg: DictConfig):
        self.cfg = cfg
        self.device = prepare_device(cfg.device)
        torch.manual_seed(cfg.seed)
        self._spec = input_spec(cfg.model, cfg.dataset.image_size)
        self._data = load_data(cfg.dataset, self._spec, cfg.seed)
        available, size = len(self._data.train), cfg.dataset.batch_size
        if available < size:
            raise UserError("dataset.batch_size", size, f"at most {available}, the number of training images")
        self._batch = first_batch(self._data.train, cfg)
        # Imports are no part of what building costs.
        importlib.import_module(_LIBRARIES[cfg.model.library])
        hydra.utils.get_class(cfg.method._target_)

    def build(self) -> None:
        cfg, data, normalize = self.cfg, self._data, Normalize(self._spec)
        mapped = self.device.type == "cpu"
        model = build_model(cfg.model, data.num_classes, self._spec, cfg.seed, mapped).to(self.device)
        calibration = Calibration(
            data.train, normalize, cfg.dataset.batch_size, cfg.rank.calibration_batches, cfg.seed
        )
        self.method = hydra.utils.instantiate(cfg.method)
        model = self.method.apply(model, calibration)
        self.step = build_step(model, normalize, cfg, self.method)
        self.batch = self.step.prepare(*self._batch)
        self.images = normalize(self._batch[0].to(self.device))
        del self._data, self._batch
