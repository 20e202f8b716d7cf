"""CUB-200-2011 (Wah et al. 2011): 200 kinds of birds, the split of the archive's train_test_split.txt."""

from pathlib import Path

from torchvision.datasets.utils import download_and_extract_archive

from wasi.data.files import FileImages
from wasi.data.spec import InputSpec, Splits

URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"
FOLDER = "CUB_200_2011"


def load(parent: Path, spec: InputSpec, download: bool) -> Splits:
    """Reads `parent/CUB_200_2011`, fetched first where `download` is set and something is missing.

    Raises:
        OSError, ValueError: a file is missing or says what cannot be. RuntimeError: the download is broken.
    """
    folder = parent / FOLDER
    try:
        return _read(folder, spec)
    except FileNotFoundError:
        if not download:
            raise
    download_and_extract_archive(URL, str(parent), filename=f"{FOLDER}.tgz", md5=MD5)
    return _read(folder, spec)


def _read(folder: Path, spec: InputSpec) -> Splits:
    paths = {key: folder / "images" / name for key, name in _table(folder / "images.txt").items()}
    labels = {key: int(value) - 1 for key, value in _table(folder / "image_class_labels.txt").items()}
    training = {key: int(value) for key, value in _table(folder / "train_test_split.txt").items()}
    names = _table(folder / "classes.txt")
    classes = [names[str(number)].partition(".")[2] for number in range(1, len(names) + 1)]
    if not paths.keys() == labels.keys() == training.keys():
        raise ValueError("images.txt, image_class_labels.txt and train_test_split.txt list different images")
    if not all(0 <= label < len(classes) for label in labels.values()):
        raise ValueError("image_class_labels.txt names a class that classes.txt does not have")
    lost = next((path for path in paths.values() if not path.is_file()), None)
    if lost:
        raise FileNotFoundError(f"{lost} is missing")

    def split(flag: int) -> FileImages:
        keys = [key for key in paths if training[key] == flag]
        return FileImages([paths[key] for key in keys], [labels[key] for key in keys], spec)

    return Splits(split(1), None, split(0), classes)


def _table(path: Path) -> dict[str, str]:
    """Lines of `key value`."""
    rows = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    if not all(len(row) == 2 for row in rows):
        raise ValueError(f"{path} has lines that are not `number value`")
    return {key: value.strip() for key, value in rows}
