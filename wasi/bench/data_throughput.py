"""Throughput of data loading alone: an upper bound on images per second in training."""

from itertools import count

from omegaconf import DictConfig

from wasi.data.augment import augmented, batch_mix
from wasi.data.catalogue import load_data
from wasi.data.loader import Loader, train_batches, workers_of
from wasi.data.normalize import Normalize
from wasi.measure.timing import summary, synchronizer, time_steps
from wasi.models.input_spec import input_spec
from wasi.runs.device import prepare_device


def loading(cfg: DictConfig, warmup: int, min_count: int, min_seconds: float) -> dict[str, float]:
    """Time the loading of training batches: reading, augmentation, copy to the device, normalisation.

    Workers prefetch batches during the warm-up, so timing few batches for less than a second is too optimistic.

    Args:
        warmup: untimed batches, at least 1.
        min_count: timed batches, at least.
        min_seconds: timed seconds, at least.

    Returns:
        `data/images_per_second` and `time/load_batch_ms_p50`.
    """
    device, spec = prepare_device(cfg.device), input_spec(cfg.model, cfg.dataset.image_size)
    data, normalize = load_data(cfg.dataset, spec, cfg.seed), Normalize(spec)
    images, mix = augmented(data.train, cfg.augment, spec, cfg.seed), batch_mix(cfg.augment, data.num_classes)
    loader = Loader(images, workers_of(cfg, device), device, resident=cfg.train.memory != "lean")
    options = {"batch_size": cfg.dataset.batch_size, "seed": cfg.seed, "hflip": cfg.dataset.hflip, "mix": mix}
    batches = (batch for epoch in count() for batch in train_batches(loader, epoch=epoch, **options))
    sizes: list[int] = []

    def load() -> None:
        pixels, _ = next(batches)
        sizes.append(len(normalize(pixels.to(device))))

    samples = time_steps(load, max(warmup, 1), min_count, min_seconds, synchronizer(device.type))
    return {
        "data/images_per_second": 1000 * sum(sizes[-len(samples) :]) / sum(samples),
        "time/load_batch_ms_p50": summary(samples)["p50"],
    }
