import torch

from wasi.data.catalogue import load_data
from wasi.data.synthetic import SyntheticImages


def test_any_size_and_the_same_images_whatever_the_size_or_seed(config, spec):
    small = load_data(config("synthetic"), spec(16), seed=0)
    large = load_data(config("synthetic", train_size=100_000, val_size=3, test_size=5), spec(16), seed=1)
    assert (len(small.train), len(small.val), len(small.test), small.num_classes) == (512, 128, 128, 10)
    assert (len(large.train), len(large.val), len(large.test)) == (100_000, 3, 5)
    for i in (0, 7, 511):
        assert torch.equal(small.train[i][0], large.train[i][0]) and small.train[i][1] == large.train[i][1]
    assert large.train[99_999][0].shape == (3, 16, 16)
    assert load_data(config("synthetic", train_size=None), spec(16), 0).train.count == 512


def test_images_differ_and_classes_are_balanced(spec):
    data = SyntheticImages(100, "train", spec(16))
    assert len({data[i][0].numpy().tobytes() for i in range(100)}) == 100
    assert torch.bincount(torch.tensor([data[i][1] for i in range(100)])).tolist() == [10] * 10
    assert not torch.equal(data[0][0], SyntheticImages(100, "val", spec(16))[0][0])


def test_the_amplitude_spectrum_falls_as_one_over_f(spec):
    size = 64
    data = SyntheticImages(60, "train", spec(size))
    images = torch.stack([data[i][0] for i in range(60)]).double()
    assert abs(images.mean() - 127.5) < 2 and 35 < images.std() < 50
    amplitude = torch.fft.rfft2(images).abs().square().mean((0, 1)).sqrt()
    radius = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None])
    seen = (radius > 1.5 / size) & (radius < 0.4)
    x, y = radius[seen].log().double(), amplitude[seen].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert abs(slope + 1) < 0.1


def test_the_classes_can_be_learnt(spec):
    """Nearest class mean, taken on training images, names most validation images."""
    train, val = SyntheticImages(300, "train", spec(16)), SyntheticImages(100, "val", spec(16))
    means = torch.stack([torch.stack([train[i][0].float() for i in range(c, 300, 10)]).mean(0) for c in range(10)])
    right = 0
    for image, label in (val[i] for i in range(100)):
        right += int((means - image.float()).square().sum((1, 2, 3)).argmin()) == label
    assert right > 50  # 10 by chance
