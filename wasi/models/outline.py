"""Build a library's model with parameters on the meta device, to assign a file's tensors to it."""

from collections.abc import Callable

from torch import nn

from wasi.deferred import without_compiler
from wasi.models.attention import unpack_attention
from wasi.models.header import ModelHeader
from wasi.models.input_spec import library_of
from wasi.models.mapped import mapped_weights, replacing_registered
from wasi.models.rng import seeded


def outline(header: ModelHeader) -> nn.Module:
    """Return the library's model for the header's input size and classes, with parameters on the meta device.

    Buffers have their values.

    Raises:
        UserError: the library is unknown.
        RuntimeError or ValueError: the library does not know the architecture.
    """
    library = library_of({"library": header.library})
    return without_weights(
        lambda: library.create(header.architecture, header.input.image_size, header.num_classes)
    )


def without_weights(create: Callable[[], nn.Module]) -> nn.Module:
    """Return the model that `create` makes, with parameters on the meta device and buffers with their values.

    Where the library computes buffers on the device of the parameters (timm's Swin v2), the model is built with
    memory-mapped weights first.
    """
    with seeded(0):
        try:
            with without_compiler(), replacing_registered(_on_meta):
                model = create()
            if not any(buffer.is_meta for buffer in model.buffers()):
                return model
        except RuntimeError:  # raised by operations that need values of meta tensors
            pass
        with mapped_weights():
            model = create()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, _on_meta(parameter))
    return model


def unpacked_names(model: nn.Module, scope: str) -> dict[str, str]:
    """Apply `unpack_attention` to `model`, as methods do, and return parameters' new names -> their previous names.

    If `scope` does not include attention, `model` is left as it is and the result is empty.
    """
    if scope == "mlp":
        return {}
    before = {id(parameter): name for name, parameter in model.named_parameters()}
    unpack_attention(model)
    return {name: before[id(parameter)] for name, parameter in model.named_parameters()}


def _on_meta(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
