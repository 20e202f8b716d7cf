"""A trained model in one safetensors file, whatever its layers were while it was trained.

Each linear layer that a method replaced is kept as what inference needs of it: two factors `NAME.L` and `NAME.R`
(and `NAME.bias`) with adapters merged into them, or one dense weight. Everything that is dense has the library's
own key. The header (`ModelHeader`) is JSON in the file's metadata. What only training uses, such as bases of
activations, is left out: training that starts from the file makes them anew on its own data.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from wasi.atomic import replacing_from_folder
from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.models.factor_pair import FactorPair
from wasi.models.header import METADATA_KEY, ModelHeader
from wasi.models.loading import State, read_state
from wasi.models.outline import outline, unpacked_names
from wasi.models.weights_file import RUN, run_header


def save_model(path: Path, model: nn.Module, header: ModelHeader) -> None:
    """Write `model`, as trained, to `path`: a temporary file first, then renamed."""
    metadata = {METADATA_KEY: header.to_json()}  # one key: safetensors writes several in any order
    with replacing_from_folder(path) as temporary:
        save_file(separate(inference_state(model, header)), temporary, metadata)


@torch.no_grad()
def inference_state(model: nn.Module, header: ModelHeader) -> State:
    """The tensors that the file holds, by their keys there; some may be the model's own."""
    layers = {n: m for n, m in model.named_modules(remove_duplicate=False) if isinstance(m, LowRankLayer)}
    names = unpacked_names(outline(header), header.scope) if layers else {}
    inside = tuple(f"{name}." for name in layers)
    state = {names.get(key, key): value for key, value in model.state_dict().items() if not key.startswith(inside)}
    for name, layer in layers.items():
        factors = layer.weight_factors()
        kinds = ("weight",) if len(factors) == 1 else ("L", "R")
        tensors = dict(zip(kinds, factors, strict=True))
        if (bias := getattr(layer, "bias", None)) is not None:
            tensors["bias"] = bias
        for kind, tensor in tensors.items():
            key = f"{name}.{kind}"
            state[names.get(key, key) if len(factors) == 1 else key] = tensor.detach()
    return state


def separate(state: State) -> State:
    """The same tensors in memory of their own each, as the file format wants them."""
    seen: set[int] = set()

    def own(tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        return tensor

    return {key: own(value) for key, value in state.items()}


def open_model(run: str | Path) -> tuple[nn.Module, ModelHeader]:
    """The trained model of a run's folder or model file, for inference, and its header.

    It is the library's model on the CPU in evaluation mode, with a `FactorPair` for each factored layer. Raises
    UserError (`RUN`) for what is no run's model, and for a model that the installed library does not know or
    builds otherwise.
    """
    header = run_header(run)
    state = read_state(run, RUN)
    try:
        model = outline(header)
        if factored := factored_layers(header, state):
            state = _by_unpacked_name(state, unpacked_names(model, header.scope))
            for name in factored:
                _put_pair(model, name, state)
        model.load_state_dict(state, strict=True, assign=True)
    except (RuntimeError, ValueError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        allowed = f"a model that this {header.library} builds as {header.architecture}; {reason}"
        raise UserError(RUN, run, allowed) from error
    return model.eval().requires_grad_(False), header


def dense_state(header: ModelHeader, state: State) -> State:
    """The file's `state` with each pair of factors multiplied, by the library's own keys."""
    factored = factored_layers(header, state)
    if not factored:
        return state
    names = unpacked_names(outline(header), header.scope)
    state = _by_unpacked_name(state, names)
    for name in factored:  # one after the other, so that few are there in both forms
        state[f"{name}.weight"] = state.pop(f"{name}.L") @ state.pop(f"{name}.R")
    return {names.get(key, key): value for key, value in state.items()}


def factored_layers(header: ModelHeader, state: State) -> list[str]:
    """Names of the layers that the file's `state` holds as two factors."""
    names = (layer["name"] for layer in header.layers)
    return [name for name in names if f"{name}.L" in state and f"{name}.R" in state]


def _by_unpacked_name(state: State, names: dict[str, str]) -> State:
    back = {library: unpacked for unpacked, library in names.items()}
    return {back.get(key, key): value for key, value in state.items()}


def _put_pair(model: nn.Module, name: str, state: State) -> None:
    (rows, rank), (_, columns) = state[f"{name}.L"].shape, state[f"{name}.R"].shape
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, FactorPair(columns, rows, rank, f"{name}.bias" in state))
