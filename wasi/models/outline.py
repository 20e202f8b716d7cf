"""A library's model without the memory of its weights, which a file's tensors are to take the place of."""

from collections.abc import Callable

from torch import nn

from wasi.deferred import without_compiler
from wasi.models.attention import unpack_attention
from wasi.models.header import ModelHeader
from wasi.models.input_spec import library_of
from wasi.models.mapped import mapped_weights
from wasi.models.registered import registered_as
from wasi.models.rng import seeded


def outline(header: ModelHeader) -> nn.Module:
    """The library's own model for the header's input size and classes: parameters on `meta`, buffers in place.

    Raises UserError for a library that is not known, RuntimeError or ValueError for a name that the library does
    not know.
    """
    library = library_of({"library": header.library})
    return without_weights(
        lambda: library.create(header.architecture, header.input.image_size, header.num_classes)
    )


def without_weights(create: Callable[[], nn.Module]) -> nn.Module:
    """The model that `create` makes, its parameters on `meta`, its buffers with their values.

    A library may compute buffers where the parameters are (timm's Swin v2). Its model is made with weights first.
    """
    with seeded(0):
        try:
            with without_compiler(), registered_as(_on_meta):
                model = create()
            if not any(buffer.is_meta for buffer in model.buffers()):
                return model
        except RuntimeError:  # as of values that are not there
            pass
        with mapped_weights():
            model = create()
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, _on_meta(parameter))
    return model


def unpacked_names(model: nn.Module, scope: str) -> dict[str, str]:
    """Open the packed attention of `model` in place, as methods do; parameters' names then -> their names before.

    Empty, and nothing is done, for a `scope` without attention. The modules that `unpack_attention` puts in place
    hold the very parameters of the originals.
    """
    if scope == "mlp":
        return {}
    before = {id(parameter): name for name, parameter in model.named_parameters()}
    unpack_attention(model)
    return {name: before[id(parameter)] for name, parameter in model.named_parameters()}


def _on_meta(parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
