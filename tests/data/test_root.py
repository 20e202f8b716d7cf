"""Archives from the network."""

import io
import tarfile
import threading

import pytest
from torchvision.datasets.utils import extract_archive

from wasi.data.catalogue import check_dataset, dataset_identity
from wasi.data.root import downloading
from wasi.errors import UserError


@pytest.mark.parametrize("name", ["../outside.txt", "{absolute}"])
def test_an_archive_cannot_write_outside_its_folder(name, tmp_path):
    outside = tmp_path / "outside.txt"
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as tar:
        member = tarfile.TarInfo(name.format(absolute=outside))
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    cfg = {"name": "cub200", "root": str(tmp_path)}
    (tmp_path / "inside").mkdir()
    with pytest.raises(UserError, match="dataset.download=true"), downloading(cfg, "CUB_200_2011/"):
        extract_archive(str(tmp_path / "x.tgz"), str(tmp_path / "inside"))
        raise OSError("extracted")  # an absolute name may lose its root and land inside instead
    assert not outside.exists()


def test_jobs_side_by_side_download_one_after_another(tmp_path):
    order = []

    def second():
        with downloading({"name": "cub200", "root": str(tmp_path / "new")}, "CUB_200_2011/"):
            order.append("second")

    waiting = threading.Thread(target=second)
    with downloading({"name": "cub200", "root": str(tmp_path / "new")}, "CUB_200_2011/"):
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_a_folder_that_cannot_be_written_into_is_read(tmp_path):
    (tmp_path / "file").touch()
    with downloading({"name": "cub200", "root": str(tmp_path / "file" / "below")}, "CUB_200_2011/"):
        pass


@pytest.mark.parametrize("name", ["cifar10", "fashion_mnist", "image_folder"])
def test_a_folder_of_an_unknown_user_is_missing(config, name):
    cfg = config(name, root="~nobody_of_this_name/data")
    assert dataset_identity(cfg)["content"] in ("absent", "published")
    with pytest.raises(UserError, match="dataset.root=~nobody_of_this_name/data: "):
        check_dataset(cfg)
