"""Checking an exported model against the trained one, in the runtime that the format is for."""

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

_TOLERANCE = 1e-3  # relative to the largest logit; reordered float32 operations differ by far less
_BATCH_SIZES = (1, 3)

# (file, batches, header) -> logits of each batch, median ms of the first batch
Runner = Callable[[Path, Sequence[Tensor], ModelHeader], tuple[list[Tensor], float]]


@dataclass(frozen=True)
class Comparison:
    """An exported model compared with the trained one.

    difference: largest absolute difference of logits; largest: largest absolute logit of the trained model;
    trained_ms, exported_ms: median milliseconds of inference on one image.
    """

    difference: float
    largest: float
    trained_ms: float
    exported_ms: float


class Deviates(Exception):
    """The exported model does not run, or its logits differ from the trained model's by more than rounding."""


def compare(file: Path, form: str, model: nn.Module, header: ModelHeader) -> Comparison:
    """Compare logits and latency of the trained `model` and of `file` on random normalised images.

    Args:
        form: the format of `file`: `torch`, `onnx` or `dense`.

    Raises:
        Deviates: the logits differ by more than `_TOLERANCE`, or the exported program does not run.
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
    """Run in a new process that cannot import this package."""
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
    """Run the library's own model, with the file loaded strictly as its state dict."""
    create = library_of({"library": header.library}).create
    model = create(header.architecture, header.input.image_size, header.num_classes).eval()
    model.load_state_dict(load_file(file))
    with torch.no_grad():
        return [model(batch) for batch in batches], bare.median_ms(lambda: model(batches[0]))


RUNNERS: dict[str, Runner] = {"torch": _torch, "onnx": _onnx, "dense": _dense}
