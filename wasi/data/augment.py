"""Augmentation by timm and torchvision (options `augment.*`).

All random draws are a function of (seed, epoch, image or batch) alone, so they depend neither on the number of worker
processes nor on where a run was resumed.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset

from wasi.data.draws import generator
from wasi.data.spec import Images, InputSpec
from wasi.deferred import import_light


def augmented(images: Images, cfg_augment, spec: InputSpec, seed: int) -> Images:
    """Wrap `images` in RandAugment and random resized crops; return them unchanged where neither is configured."""
    if cfg_augment.auto_augment is None and cfg_augment.scale is None:
        return images
    timm_data = import_light("timm.data")
    names = ("Posterize", "PosterizeIncreasing", "PosterizeOriginal")
    timm_data.auto_augment.NAME_TO_OP |= dict.fromkeys(names, _posterize)
    square = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}  # the whole centred square, i.e. no cropping
    crop = {"scale": tuple(cfg_augment.scale), "ratio": tuple(cfg_augment.ratio)} if cfg_augment.scale else square
    transform = timm_data.create_transform(
        spec.image_size,
        is_training=True,
        **crop,
        hflip=0.0,  # `train_batches` mirrors images (dataset.hflip)
        color_jitter=None,
        auto_augment=cfg_augment.auto_augment,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        normalize=False,
    )
    return AugmentedImages(images, transform, seed)


class AugmentedImages(Dataset):
    """Map-style data set whose item `epoch * n + index` is image `index` as augmented in that epoch.

    `n` is the number of images, which `len` gives too; an item is (uint8 `[3, S, S]`, label).

    Args:
        transform: maps an RGB image to uint8 `[3, S, S]`; may draw from global random generators.
        seed: the run's seed; with epoch and index it seeds these generators.
    """

    def __init__(self, images: Images, transform: Callable[[Image.Image], Tensor], seed: int):
        self.images, self.labels, self.transform, self.seed = images, images.labels, transform, seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, item: int) -> tuple[Tensor, int]:
        epoch, index = divmod(item, len(self))
        image = _picture(self.images, index)
        with seeded_by_key("augment", self.seed, epoch, index):
            return self.transform(image), int(self.labels[index])


def batch_mix(cfg_augment, num_classes: int) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """Return a function that applies mixup or CutMix to a batch, or None where both are off.

    With both on, each batch gets one of them, chosen at random. The function takes uint8 images `[B, 3, S, S]`, labels
    `[B]` and a key, of which its random draws are a function; it returns uint8 images and soft labels (float32
    `[B, C]`).
    """
    alphas = {"MixUp": cfg_augment.mixup_alpha, "CutMix": cfg_augment.cutmix_alpha}
    if not any(alphas.values()):
        return None
    v2 = import_light("torchvision.transforms.v2")
    kinds = {getattr(v2, name): float(alpha) for name, alpha in alphas.items() if alpha > 0}  # an int is refused
    choice = v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds.items()])

    def mix(images: Tensor, labels: Tensor, *key: object) -> tuple[Tensor, Tensor]:
        with seeded_by_key("mix", *key):
            images, labels = choice(images.float(), labels)
        return images.round_().byte(), labels

    return mix


@contextmanager
def seeded_by_key(*key: object) -> Iterator[None]:
    """Seed Python's, NumPy's and torch's global CPU generators by a hash of `key`, and restore their states on exit.

    For transforms that draw from this global state and take no generator.
    """
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    seed = generator(*key).initial_seed()
    torch.default_generator.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    """Posterize as timm does; 0 bits or fewer (of magnitudes above 12) give a black image, as until Pillow 13."""
    from timm.data.auto_augment import posterize

    return posterize(image, bits_to_keep) if bits_to_keep > 0 else Image.new(image.mode, image.size)


def _picture(images: Images, index: int) -> Image.Image:
    """Return an image at its published size, or at the model's where the data set has no method `picture`."""
    if isinstance(images, Subset):
        return _picture(cast(Images, images.dataset), images.indices[index])
    if (picture := getattr(images, "picture", None)) is not None:
        return picture(index)
    return Image.fromarray(images[index][0].permute(1, 2, 0).numpy())
