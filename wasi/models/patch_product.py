"""The patch embedding as one product: a convolution whose patches do not overlap is nothing else."""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wasi.linalg.tucker import row_sum
from wasi.models.structure import first_convolution


class PatchProduct(torch.autograd.Function):
    """`nn.functional.conv2d` of patches side by side: `x` is `[B, C, H, W]`, `weight` `[O, C, p, q]`.

    Images are kept for the backward pass, not patches, which are copied together once more there.
    """

    @staticmethod
    def forward(x, weight, bias):
        p, q = weight.shape[2:]
        rows, flat = patches(x, p, q), weight.flatten(1).mT
        out = rows @ flat if bias is None else torch.addmm(bias, rows, flat)
        return out.view(len(x), x.shape[2] // p, x.shape[3] // q, len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        p, q = weight.shape[2:]
        grad = grad.permute(0, 2, 3, 1)
        rows = grad.reshape(-1, len(weight))
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            apart = (rows @ weight.flatten(1)).view(*grad.shape[:3], x.shape[1], p, q)
            d_x = apart.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
        if ctx.needs_input_grad[1]:
            d_weight = (rows.mT @ patches(x, p, q)).view(weight.shape)
        if ctx.needs_input_grad[2]:
            d_bias = row_sum(rows)
        return d_x, d_weight, d_bias


def patches(x: Tensor, p: int, q: int) -> Tensor:
    """`[B, C, H, W]` as rows, `(B H/p W/q) x (C p q)`."""
    batch, channels, height, width = x.shape
    apart = x.reshape(batch, channels, height // p, p, width // q, q)
    return apart.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * p * q)


class PatchConv2d(nn.Conv2d):
    """`nn.Conv2d` of patches side by side, `[B, C, H, W]` to `[B, O, H / p, W / q]`, computed by BLAS on a CPU.

    The result lies in memory as `[B, H / p, W / q, O]`, the order that transformers want tokens in. A trace sees
    the convolution, which is the same work.
    """

    def forward(self, x: Tensor) -> Tensor:
        p, q = self.kernel_size
        whole = x.dim() == 4 and len(x) > 0 and x.shape[2] % p == x.shape[3] % q == 0
        if not whole or x.device.type != "cpu" or torch.jit.is_tracing():
            return super().forward(x)
        return PatchProduct.apply(x, self.weight, self.bias)


def multiply_patches(model: nn.Module) -> nn.Module:
    """Put, in place, a `PatchConv2d` with the very parameters for the patch embedding, where it can be one."""
    found = first_convolution(model)
    if found is not None and _is_of_patches(found[1]):
        parent, _, child = found[0].rpartition(".")
        setattr(model.get_submodule(parent), child, _of_patches(found[1]))
    return model


def _is_of_patches(module: nn.Conv2d) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.stride == module.kernel_size
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.groups == 1
    )


def _of_patches(conv: nn.Conv2d) -> PatchConv2d:
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride
    made = PatchConv2d(*sizes, bias=conv.bias is not None, device="meta")
    made.weight, made.bias = conv.weight, conv.bias
    return made.train(conv.training)
