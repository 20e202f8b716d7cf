"""Throughput of loading alone: what a training loop would get if its steps took no time."""

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
    """Training batches as `cfg` asks for them, read, augmented, on the device and normalised, epoch after epoch.

    Workers run ahead of the warm-up, so few batches over less than a second tell too much of them.
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
