"""An exported model against the trained one, in the runtime that it is made for."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from wasi.export import bare
from wasi.models.header import ModelHeader
from wasi.models.input_spec import library_of
from wasi.models.modes import without_fast_path

_TOLERANCE = 1e-3  # of the largest logit; float32 in another order of operations stays far below
_BATCH_SIZES = (1, 3)

Runner = Callable[[Path, Sequence[Tensor], ModelHeader], tuple[list[Tensor], float]]


@dataclass(frozen=True)
class Comparison:
    """`difference`: largest absolute difference of logits; `largest`: largest absolute logit of the trained model.

    `trained_ms` and `exported_ms`: median time of one image.
    """

    difference: float
    largest: float
    trained_ms: float
    exported_ms: float


class Deviates(Exception):
    """The exported model does not compute what the trained one does."""


def compare(file: Path, form: str, model: nn.Module, header: ModelHeader) -> Comparison:
    """Random images, normalised, through the trained `model` and through `file`.

    Raises Deviates where they differ by more than rounding.
    """
    size, generator = header.input.image_size, torch.Generator().manual_seed(0)
    batches = [torch.randn(count, 3, size, size, generator=generator) for count in _BATCH_SIZES]
    with torch.no_grad(), without_fast_path():
        expected = [model(batch) for batch in batches]
        trained_ms = bare.median_ms(lambda: model(batches[0]))
    found, exported_ms = RUNNERS[form](file, batches, header)
    difference = max((a - b).abs().max().item() for a, b in zip(expected, found, strict=True))
    largest = max(logits.abs().max().item() for logits in expected)
    if not difference <= _TOLERANCE * max(largest, 1.0):
        raise Deviates(f"its logits differ by {difference:.2g} from the trained model's (up to {largest:.2g})")
    return Comparison(difference, largest, trained_ms, exported_ms)


def _torch(file: Path, batches: Sequence[Tensor], header: ModelHeader) -> tuple[list[Tensor], float]:
    """In a new process, without this package."""
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "inputs.pt"), Path(folder, "outputs.pt")
        torch.save(list(batches), inputs)
        command = [sys.executable, bare.__file__, str(file.absolute()), str(inputs), str(outputs)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise Deviates(f"it does not run without this package: {(done.stderr.splitlines() or [''])[-1]}")
        return torch.load(outputs, weights_only=True), float(done.stdout)


def _onnx(file: Path, batches: Sequence[Tensor], header: ModelHeader) -> tuple[list[Tensor], float]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    feeds = [{session.get_inputs()[0].name: batch.numpy()} for batch in batches]
    found = [torch.from_numpy(session.run(None, feed)[0]) for feed in feeds]
    return found, bare.median_ms(lambda: session.run(None, feeds[0]))


def _dense(file: Path, batches: Sequence[Tensor], header: ModelHeader) -> tuple[list[Tensor], float]:
    """In the library's own model, built anew and loaded strictly."""
    create = library_of({"library": header.library}).create
    model = create(header.architecture, header.input.image_size, header.num_classes).eval()
    model.load_state_dict(load_file(file))
    with torch.no_grad():
        return [model(batch) for batch in batches], bare.median_ms(lambda: model(batches[0]))


RUNNERS: dict[str, Runner] = {"torch": _torch, "onnx": _onnx, "dense": _dense}
