"""Convolutions on maps of a few pixels, which some processors compute slowly."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, unfold
from torch.nn.grad import conv2d_input


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution that is computed as a matrix product where the map is tiny.

    Where one pixel comes out, most taps meet padding alone: the product of the map with the other
    taps is all of it. Where 2x2 come out and the network trains on a CPU, the weight gradient is
    one product: some CPU kernels of torch accumulate it image by image, which is slow for many
    filters. What is gained depends on the processor (`benchmarks/training.py`). Results are the
    same up to rounding. It shares the weight of the convolution that it replaces.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv.in_channels, conv.out_channels, 3, conv.stride[0], 1, bias=False)
        self.weight = conv.weight

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, h, h) -> (N, C', h', h')."""
        stride, side = self.stride[0], maps.shape[-1]
        if side <= stride:
            met = slice(1, 1 + side)
            taps = self.weight.permute(0, 2, 3, 1)[:, met, met]  # as channels-last weights lie
            return linear(maps.permute(0, 2, 3, 1).flatten(1), taps.flatten(1))[..., None, None]
        if not self.training or maps.device.type != "cpu" or side > 2 * stride:
            return super().forward(maps)
        autocast = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if autocast else maps.dtype
        return _SmallMapProduct.apply(maps.to(dtype), self.weight.to(dtype), stride)


class _SmallMapProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps, weight, stride):
        ctx.save_for_backward(maps, weight)
        ctx.window = dict(stride=stride, padding=1)
        return conv2d(maps, weight, **ctx.window)

    @staticmethod
    def backward(ctx, grad):
        maps, weight = ctx.saved_tensors
        grad_maps = conv2d_input(maps.shape, weight, grad, **ctx.window)
        columns = grad.permute(0, 2, 3, 1).reshape(-1, len(weight))  # (N h' w', C')
        patches = unfold(maps, 3, **ctx.window).transpose(1, 2)  # (N, h' w', C 3 3)
        grad_weight = columns.T @ patches.reshape(len(columns), -1)
        return grad_maps, grad_weight.view_as(weight), None
