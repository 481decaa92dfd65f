"""Convolutions on maps of a few pixels, whose weight gradient some processors compute slowly."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, unfold
from torch.nn.grad import conv2d_input


class SmallMapConv2d(nn.Conv2d):
    """A 3x3 convolution whose weight gradient is one matrix product where the map is at most 2x2.

    Some CPU kernels of torch accumulate that gradient image by image, which is slow for many
    filters on a tiny map; how slow depends on the processor (`benchmarks/training.py`). Results
    are the same up to rounding. It shares the weight of the convolution that it replaces.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__(conv.in_channels, conv.out_channels, 3, conv.stride[0], 1, bias=False)
        self.weight = conv.weight

    def forward(self, maps: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C', h', w')."""
        stride, autocast = self.stride[0], torch.is_autocast_enabled("cpu")
        if not self.training or maps.device.type != "cpu" or maps.shape[-1] > 2 * stride:
            return super().forward(maps)
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
