"""One training step: the loss of a batch, and its gradient; on CUDA as one launch."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

WARM = 3  # steps before a step is captured, in which libraries choose their kernels
LEAST = 100  # steps for which capturing pays


def as_unit(images: Tensor) -> Tensor:
    """uint8 images as float32 in [0, 1], other tensors as they are; images become channels-last."""
    tensor = images.float().div_(255) if images.dtype == torch.uint8 else images
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def channels_last(model: nn.Module) -> nn.Module:
    """The model itself, the weights of its 2-D convolutions laid out for speed: 1.3 to 1.4 times.

    Gradients are not touched, since a captured step writes to the place where they lie.
    """
    for weight in model.parameters():
        if weight.ndim == 4:
            weight.data = weight.data.to(memory_format=torch.channels_last)
    return model


class Step:
    """Batches, as `fit` has them -> the loss (), and its gradient in the model's parameters."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor]):
        self.model, self.loss = model, loss

    def __call__(self, *batch: Tensor) -> Tensor:
        """Compute operation by operation."""
        self.model.zero_grad()
        value = self.loss(self.model, *map(as_unit, batch))
        value.backward()
        return value.detach()


class CapturedStep(Step):
    """The same on CUDA, where a network of small layers waits for its launches.

    After WARM batches of one size the step is captured as a CUDA graph, which later batches of that
    size replay as a whole; others are computed operation by operation. The loss is called no more:
    what it reads beside the batch must stay in its place on the device and change there, nothing
    may wait for the device, and random numbers come from torch's own generator.
    """

    def __init__(
        self, model: nn.Module, loss: Callable[..., Tensor], *, device: torch.device, size: int
    ):
        super().__init__(model, loss)
        self.device, self.size, self.seen = device, size, 0
        self.graph, self.stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
        self.parameters = [each for each in model.parameters() if each.requires_grad]
        self.inputs, self.value = list[Tensor](), torch.empty(())
        self.gradient: Sequence[Any] = ()

    def __call__(self, *batch: Tensor) -> Tensor:
        """Replay, once there is something to replay."""
        if len(batch[0]) != self.size:
            return super().__call__(*batch)
        self.seen += 1
        with torch.cuda.device(self.device):
            return self._warm(*batch) if self.seen <= WARM else self._replay(*batch)

    def _warm(self, *batch: Tensor) -> Tensor:
        usual = torch.cuda.current_stream()
        self.stream.wait_stream(usual)
        with torch.cuda.stream(self.stream):  # capturing wants that nothing ran on the usual one
            value = super().__call__(*batch)
        usual.wait_stream(self.stream)
        return value

    def _replay(self, *batch: Tensor) -> Tensor:
        if not self.inputs:
            self.inputs = [each.clone() for each in batch]
            mode = "thread_local"  # other threads may go on
            with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode=mode):
                self.value = super().__call__(*self.inputs)
            self.gradient = [each.grad for each in self.parameters]
        for place, each in zip(self.inputs, batch, strict=True):
            place.copy_(each)
        self.graph.replay()
        for parameter, grad in zip(self.parameters, self.gradient, strict=True):
            parameter.grad = grad
        return self.value


def step_of(
    model: nn.Module, loss: Callable[..., Tensor], *, device: torch.device, size: int, steps: int
) -> Step:
    """What makes `steps` steps of batches of `size` fastest."""
    if device.type == "cuda" and steps >= LEAST:
        return CapturedStep(model, loss, device=device, size=size)
    return Step(model, loss)
