import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from wasi.data import decode
from wasi.data.decode import read_rgb, to_rgb, to_tensor
from wasi.errors import UserError

GREY = np.linspace(0, 255, 60).astype(np.uint8).reshape(6, 10)


def as_file(image, path, **options):
    image.save(path, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return np.asarray(read_rgb(path)).astype(int)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_mode_of_png(tmp_path, mode):
    colour = Image.fromarray(np.stack([GREY, 255 - GREY, GREY // 2], -1))
    if mode == "I;16":
        image, expected = Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)
        assert image.mode == "I;16"
    else:
        image = colour.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(as_file(image, tmp_path / "x.png"), expected)


@pytest.mark.parametrize("mode", ["CMYK", "L", "RGB"])
def test_every_mode_of_jpeg(tmp_path, mode):
    smooth = Image.fromarray(np.stack([GREY, 255 - GREY, GREY // 2], -1)).resize((80, 48))
    read = as_file(smooth.convert(mode), tmp_path / "x.jpg", quality=98, subsampling=0 if mode == "RGB" else -1)
    assert np.abs(read - np.asarray(smooth.convert(mode).convert("RGB"))).mean() < 3


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (GREY.astype(np.int32) * 257, GREY),  # 32 bit integers that hold 16 bit
        (GREY.astype(np.int32) * (2**31 // 256), GREY * 0.9961),  # and all of 32
        (GREY.astype(np.float32) / 255, GREY),
        (GREY.astype(np.float32), GREY),
        (GREY.astype(np.float32) * 257, GREY),
    ],
)
def test_deep_greys_are_scaled_not_clipped(tmp_path, values, expected):
    read = as_file(Image.fromarray(values), tmp_path / "x.tif")
    assert np.abs(read - expected[..., None]).max() <= 1


def test_floats_out_of_range_do_no_harm():
    odd = np.array([[np.nan, -3.0, 0.5, 1.0]], np.float32)
    assert np.asarray(to_rgb(Image.fromarray(odd)))[0, :, 0].tolist() == [0, 0, 128, 255]


def test_big_endian_sixteen_bit():
    image = Image.frombytes("I;16B", (10, 6), (GREY.astype(">u2") * 257).astype(">u2").tobytes())
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], GREY)


def test_transparency_goes_on_white(tmp_path):
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (as_file(clear, tmp_path / "x.png") == 255).all()
    half = as_file(Image.new("LA", (4, 4), (0, 128)), tmp_path / "y.png")
    assert (abs(half - 127) <= 1).all()
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0])
    assert (as_file(palette, tmp_path / "z.png", transparency=1) == 255).all()
    assert (as_file(palette, tmp_path / "w.png", transparency=b"\xff\xff") == [200, 0, 0]).all()
    keyed = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    assert as_file(keyed, tmp_path / "v.png", transparency=(1, 2, 3)).tolist() == [[[255] * 3, [9] * 3]]


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.stack([GREY] * 3, -1))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    assert np.array_equal(as_file(image, tmp_path / "x.png", exif=exif), np.rot90(np.stack([GREY] * 3, -1), -1))


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (4, 4), value) for value in (40, 200)]
    assert (as_file(frames[0], tmp_path / "x.gif", save_all=True, append_images=frames[1:]) == 40).all()


@pytest.mark.parametrize("size", [(90, 40), (40, 90), (41, 41), (16, 300), (1, 1)])
def test_the_square_is_torchvisions_resize_and_centre_crop(spec, size):
    from torchvision.transforms import v2

    columns, rows = np.arange(size[0]), np.arange(size[1])[:, None]
    smooth = np.stack([columns + 0 * rows, rows + 0 * columns, (columns + rows) // 2], -1) * 255 // sum(size)
    image = Image.fromarray(smooth.astype(np.uint8))
    ours = to_tensor(image, spec(16)).int()
    theirs = v2.Compose([v2.Resize(16), v2.CenterCrop(16), v2.PILToTensor()])(image).int()
    assert ours.shape == (3, 16, 16)
    assert (ours - theirs).abs().max() <= 255 * 2 // sum(size) + 2  # torchvision rounds the crop to whole pixels


def test_a_square_of_the_right_size_is_untouched(spec):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    assert np.array_equal(to_tensor(Image.fromarray(pixels), spec(16)).permute(1, 2, 0).numpy(), pixels)


def test_an_image_above_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("L", (9, 7)).save(tmp_path / "x.png")
    monkeypatch.setattr(decode, "MAX_PIXELS", 9 * 7)
    assert read_rgb(tmp_path / "x.png").size == (9, 7)
    monkeypatch.setattr(decode, "MAX_PIXELS", 9 * 7 - 1)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match="at most 62 pixels; this one has 9 x 7"):
        read_rgb(tmp_path / "x.png")


@pytest.mark.parametrize("side", [10_000, 100_000])
def test_a_small_file_that_claims_a_large_image(tmp_path, side):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(png)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(UserError, match=f"image={tmp_path}.*at most 89478485 pixels"):
            read_rgb(tmp_path / "x.png")
