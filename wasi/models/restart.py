"""Training that starts from a run's model: its weights into a fresh model, its factors for the method."""

from pathlib import Path

from torch import Tensor, nn

from wasi.linalg.orthonormal import qr_positive
from wasi.models.header import ModelHeader
from wasi.models.loading import Adapter, load_state, read_state
from wasi.models.outline import outline, unpacked_names
from wasi.models.saved import dense_state, factored_layers

_FACTORS = "given_factors"  # an attribute of a weight


def load_saved(
    model: nn.Module, source: str | Path, header: ModelHeader, heads: tuple[str, ...], adapt: Adapter
) -> None:
    """Copy a run's model into `model`, the library's own; as `loading.load_file` in everything else.

    A layer that the file holds as two factors gets their product, and its weight remembers them.
    """
    state = read_state(source, "model.weights")
    factors = {name: (state[f"{name}.L"], state[f"{name}.R"]) for name in factored_layers(header, state)}
    load_state(model, dense_state(header, state), source, heads, adapt)
    if factors:
        names = unpacked_names(outline(header), header.scope)
        for name, (left, right) in factors.items():
            key = f"{name}.weight"
            give_factors(model.get_parameter(names.get(key, key)), left, right)


def give_factors(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """Note at `weight = left right` (`O x I`) its factors; `left` is made orthonormal, which the product allows.

    An optimizer of factors as ordinary parameters does not keep `left` orthonormal, while a method may need it so.
    """
    q, triangular = qr_positive(left)
    setattr(weight, _FACTORS, (q, triangular @ right))


def given_factors(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """`L` (`O x K`, orthonormal columns) and `R` (`K x I`) of a weight that came as a product, or None."""
    factors = getattr(weight, _FACTORS, None)
    return None if factors is None else tuple(factor.to(weight) for factor in factors)
