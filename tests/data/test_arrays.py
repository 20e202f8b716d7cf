import numpy as np
import pytest
import torch
from PIL import Image

from wasi.data.arrays import from_numpy, resized_as_floats
from wasi.data.loader import Loader, eval_batches
from wasi.data.normalize import Normalize


def test_native_size_is_untouched_and_grey_becomes_three_equal_channels(spec):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    data = from_numpy(pixels, np.arange(5), spec(8))
    image, label = data[3]
    assert image.dtype == torch.uint8 and image.shape == (3, 8, 8) and label == 3 and type(label) is int
    for channel in image:
        assert np.array_equal(channel.numpy(), pixels[3])


@pytest.mark.parametrize(
    ("shape", "kind", "labels"),
    [((5, 8, 8), "float32", 5), ((5, 3, 8, 8), "uint8", 5), ((5, 64), "uint8", 5), ((5, 8, 8), "uint8", 4)],
)
def test_other_arrays_than_images_as_bytes_with_a_label_each_are_refused(spec, shape, kind, labels):
    with pytest.raises(ValueError, match=f"^images are {kind} .*, with {labels} labels; they must be uint8"):
        from_numpy(np.zeros(shape, kind), np.arange(labels), spec(8))


@pytest.mark.parametrize("size", [5, 13, 32])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_agrees_with_pillow(spec, size, interpolation):
    pixels = np.random.default_rng(1).integers(0, 256, (2, 12, 12, 3), np.uint8)
    data = from_numpy(pixels, [0, 1], spec(size, interpolation))
    for image, original in zip((data[0][0], data[1][0]), pixels, strict=True):
        filter_ = getattr(Image.Resampling, interpolation.upper())
        expected = np.asarray(Image.fromarray(original).resize((size, size), filter_)).astype(int)
        assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("shape", [(7, 12, 12), (7, 12, 12, 3)])
def test_a_batch_is_its_items(spec, shape):
    pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    data = from_numpy(pixels, np.arange(7), spec(20, "bicubic"))
    [(images, labels)] = eval_batches(Loader(data), 7)
    assert images.is_contiguous() and labels.tolist() == list(range(7))
    for i in range(7):
        assert torch.equal(images[i], data[i][0])


@pytest.mark.parametrize("size", [5, 13, 32])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_for_a_gpu_is_that_of_the_cpu_to_one_level(spec, size, interpolation):
    pixels = np.random.default_rng(1).integers(0, 256, (6, 12, 12, 3), np.uint8)
    data = from_numpy(pixels, np.arange(6), spec(size, interpolation))
    [(images, _)] = eval_batches(Loader(data), 6)
    other = resized_as_floats(data.images, data.spec)
    assert other.dtype == torch.uint8 and (other.int() - images.int()).abs().max() <= 1


def test_most_rows_share_the_memory_of_all_and_can_be_chosen_from_again(spec):
    data = from_numpy(np.arange(80, dtype=np.uint8).reshape(5, 4, 4), np.arange(5), spec(4))
    most = data.take(torch.tensor([4, 0, 2]))
    assert most.images is data.images and [most[i][1] for i in range(3)] == [4, 0, 2]
    again = most.take(torch.tensor([2, 0, 1]))
    assert [label for _, label in (again[i] for i in range(3))] == [2, 4, 0]
    assert torch.equal(again[1][0], data[4][0]) and again.picture(1).getpixel((3, 3)) == (79, 79, 79)
    few = most.take(torch.tensor([2]))
    assert few.images.untyped_storage().nbytes() == 16 and few[0][1] == 2


def test_a_choice_of_rows_owns_its_memory(spec):
    data = from_numpy(np.arange(80, dtype=np.uint8).reshape(5, 4, 4), np.arange(5), spec(4))
    few = data.take(torch.tensor([1, 4]))
    assert [label for _, label in (few[0], few[1])] == [1, 4]
    assert torch.equal(few[1][0], data[4][0])
    assert few.images.untyped_storage().nbytes() == 2 * 16


def test_normalisation_is_the_textbook_formula(spec):
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (torch.tensor(v).double()[:, None, None] for v in ((0.5, 0.4, 0.3), (0.2, 0.25, 0.5)))
    normalized = Normalize(spec(4))(images)
    assert normalized.dtype == torch.float32 and normalized.is_contiguous()
    torch.testing.assert_close(normalized.double(), (images.double() / 255 - mean) / std, rtol=1e-6, atol=1e-6)
