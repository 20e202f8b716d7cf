"""A library's model without the memory of its weights, which a file's tensors are to take the place of."""

from contextlib import AbstractContextManager

from torch import nn

from wasi.models.attention import unpack_attention
from wasi.models.header import ModelHeader
from wasi.models.input_spec import library_of
from wasi.models.registered import registered_as
from wasi.models.rng import seeded


def outline(header: ModelHeader) -> nn.Module:
    """The library's own model for the header's input size and classes: parameters on `meta`, buffers in place.

    Raises UserError for a library that is not known, RuntimeError or ValueError for a name that the library does
    not know.
    """
    library = library_of({"library": header.library})
    with seeded(0), without_weights():
        return library.create(header.architecture, header.input.image_size, header.num_classes)


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


def without_weights() -> AbstractContextManager[None]:
    """Parameters that modules register inside are moved to `meta` at once; buffers are made as usual."""
    return registered_as(lambda parameter: nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad))
