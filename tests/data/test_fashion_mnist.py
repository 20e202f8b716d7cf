import gzip
import logging
from pathlib import Path

import numpy as np
import pytest

from wasi.data import fashion_mnist
from wasi.data.catalogue import load_data
from wasi.data.fashion_mnist import DEBIAN_FOLDER, FILES
from wasi.errors import UserError

DEBIAN = pytest.mark.skipif(
    not (DEBIAN_FOLDER / "train-images-idx3-ubyte.gz").is_file(), reason="needs Debian's dataset-fashion-mnist"
)


def pixels(dataset):
    return np.stack([dataset[i][0][0].numpy() for i in range(len(dataset))])


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
def test_plain_and_compressed_files_in_either_place(config, spec, idx_folder, tmp_path, gz, below):
    _, arrays = idx_folder(tmp_path / "root" / below, gz)
    data = load_data(config("fashion_mnist", root=tmp_path / "root", val_source="test"), spec(6), 0)
    assert (len(data.train), len(data.val), data.num_classes) == (30, 10, 10)
    assert [label for _, label in (data.train[i] for i in range(30))] == arrays["train_labels"].tolist()
    assert data.val[0][0].shape == (3, 6, 6)  # the 6 x 5 pixels made square


def test_pixels_are_those_of_the_file(config, spec, idx_folder):
    folder, arrays = idx_folder(gz=True)
    for role, name in FILES.items():
        read = fashion_mnist.read_array(folder / f"{name}.gz", arrays[role].ndim)
        assert np.array_equal(read, arrays[role])


def test_only_the_rows_asked_for_stay_in_memory(config, spec, idx_folder):
    folder, arrays = idx_folder()
    data = load_data(config("fashion_mnist", root=folder, train_size=4), spec(6), 0)
    assert data.train.images.untyped_storage().nbytes() == 4 * 6 * 5
    known = {image.tobytes() for image in arrays["train_images"]}
    assert all(image.numpy().tobytes() in known for image in data.train.images)


def test_too_many_is_told_from_the_header(config, spec, idx_folder):
    folder, _ = idx_folder(gz=True)
    with pytest.raises(UserError, match="dataset.train_size=31: allowed is at most 20 "):
        load_data(config("fashion_mnist", root=folder, train_size=31, val_size=10), spec(6), 0)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("role", list(FILES))
@pytest.mark.parametrize("keep", [0, 3, 6, 0.5, -1])
def test_a_file_cut_short_is_named(config, spec, idx_folder, gz, role, keep):
    folder, _ = idx_folder(gz=gz)
    path = folder / (FILES[role] + (".gz" if gz else ""))
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep == 0.5 else keep])
    with pytest.raises(UserError) as caught:
        load_data(config("fashion_mnist", root=folder), spec(6), 0)
    assert str(caught.value).startswith(f"dataset.root={folder}: ") and path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def damage_checksum(path):
    content = bytearray(gzip.compress(gzip.decompress(path.read_bytes())))
    content[-8] ^= 1
    path.write_bytes(content)


def damage_stream(path):
    content = bytearray(path.read_bytes())
    content[40:60] = bytes(20)
    path.write_bytes(content)


def not_gzip(path):
    path.write_bytes(gzip.decompress(path.read_bytes()))


def not_idx(path):
    path.write_bytes(gzip.compress(b"<html>404</html>" * 100))


def other_numbers(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[2] = 0x0D  # float32
    path.write_bytes(gzip.compress(content))


def too_long(path):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


def huge_header(path):
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[4:12] = b"\x7f\xff\xff\xff\x7f\xff\xff\xff"
    path.write_bytes(gzip.compress(content))


DAMAGES = [damage_checksum, damage_stream, not_gzip, not_idx, other_numbers, too_long, huge_header]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("role", ["train_images", "test_labels"])
def test_a_damaged_file_is_named(config, spec, idx_folder, damage, role):
    folder, _ = idx_folder(gz=True)
    path = folder / f"{FILES[role]}.gz"
    if damage is damage_stream and role == "test_labels":
        pytest.skip("too short to have a middle")
    damage(path)
    with pytest.raises(UserError) as caught:
        load_data(config("fashion_mnist", root=folder), spec(6), 0)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)
    if damage in (too_long, huge_header):  # told before anything of that size is allocated
        assert "bytes where its header asks for" in str(caught.value)


def test_files_that_do_not_fit_each_other(config, spec, idx_folder):
    folder, _ = idx_folder()
    labels = folder / FILES["train_labels"]
    labels.write_bytes((folder / FILES["test_labels"]).read_bytes())
    with pytest.raises(UserError, match="train-labels.*10 labels up to 9 for 30 images"):
        load_data(config("fashion_mnist", root=folder), spec(6), 0)


def test_swapped_images_and_labels(config, spec, idx_folder):
    folder, _ = idx_folder()
    images, labels = folder / FILES["train_images"], folder / FILES["train_labels"]
    content = images.read_bytes()
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(content)
    with pytest.raises(UserError, match="train-images.*1 dimensions where 3 are needed"):
        load_data(config("fashion_mnist", root=folder), spec(6), 0)


def test_labels_beyond_the_classes(config, spec, idx_folder):
    folder, _ = idx_folder()
    path = folder / FILES["test_labels"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x0a")
    with pytest.raises(UserError, match="labels up to 10 for 10 images of 10 classes"):
        load_data(config("fashion_mnist", root=folder), spec(6), 0)


@pytest.mark.parametrize("lost", [*FILES, None])
def test_missing_files_are_told_with_the_places_looked_at(config, spec, idx_folder, tmp_path, lost):
    folder = tmp_path / "nowhere"
    if lost:
        folder, _ = idx_folder()
        (folder / FILES[lost]).unlink()
    with pytest.raises(UserError) as caught:
        load_data(config("fashion_mnist", root=folder), spec(6), 0)
    message = str(caught.value)
    assert message.startswith(f"dataset.root={folder}: ") and f"{folder}/FashionMNIST/raw" in message
    assert FILES["train_images"] in message and "dataset.download=true" in message


def test_a_root_that_the_system_refuses_is_told(config, spec):
    with pytest.raises(UserError, match="dataset.root=x+: allowed is a folder that can be read; x+/.*: File name too"):
        load_data(config("fashion_mnist", root="x" * 300), spec(), 0)


def test_a_given_root_is_never_replaced_by_debians(config, spec, tmp_path):
    with pytest.raises(UserError, match="dataset.root"):
        load_data(config("fashion_mnist", root=tmp_path), spec(6), 0)


def test_debians_files_stand_in_for_the_default_root_and_it_says_so(
    config, spec, idx_folder, tmp_path, monkeypatch, caplog
):
    folder, _ = idx_folder(gz=True)
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO):
        assert len(load_data(config("fashion_mnist", val_source="test"), spec(6), 0).train) == 30
    assert str(folder) in caplog.text


def fake_download(idx_folder, monkeypatch, error=None):
    calls = []

    def download(root, download):
        calls.append((root, download))
        if error:
            raise error
        idx_folder(Path(root) / "FashionMNIST" / "raw")

    monkeypatch.setattr("torchvision.datasets.FashionMNIST", download)
    return calls


def test_download_only_when_nothing_is_there(config, spec, idx_folder, tmp_path, monkeypatch):
    calls = fake_download(idx_folder, monkeypatch)
    cfg = config("fashion_mnist", root=tmp_path / "new", download=True)
    assert len(load_data(cfg, spec(6), 0).test) == 10
    assert len(load_data(cfg, spec(6), 0).test) == 10
    assert calls == [(str(tmp_path / "new"), True)]


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("Tried x, got:\nno route\n")])
def test_a_failed_download_is_one_line(config, spec, idx_folder, tmp_path, monkeypatch, error):
    fake_download(idx_folder, monkeypatch, error)
    with pytest.raises(UserError) as caught:
        load_data(config("fashion_mnist", root=tmp_path / "new", download=True), spec(6), 0)
    message = str(caught.value)
    assert message.startswith("dataset.download=true: ") and "no route" in message and "dataset.root" in message
    assert "\n" not in message


@DEBIAN
def test_the_real_data(config, spec):
    data = load_data(config("fashion_mnist", root=DEBIAN_FOLDER, val_source="test"), spec(28), 0)
    assert (len(data.train), len(data.val)) == (60_000, 10_000)
    assert data.train.labels.bincount().tolist() == [6000] * 10
    assert abs(data.train.images.float().mean() / 255 - 0.2860) < 1e-4  # the figure everybody normalises by
    assert data.classes[data.train[0][1]] == "Ankle boot"
