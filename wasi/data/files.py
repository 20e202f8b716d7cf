"""Data sets of image files, decoded when a batch asks for them."""

from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from wasi.data.decode import read_rgb, to_tensor
from wasi.data.spec import InputSpec


class FileImages(Dataset):
    """Items (uint8 `[3, S, S]`, label), one file each."""

    def __init__(self, paths: list[Path], labels: list[int], spec: InputSpec):
        self.paths, self.labels, self.spec = paths, labels, spec

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(read_rgb(self.paths[index]), self.spec), self.labels[index]

    def __add__(self, other: "FileImages") -> "FileImages":
        """These images, then those of `other`."""
        return FileImages([*self.paths, *other.paths], [*self.labels, *other.labels], self.spec)
