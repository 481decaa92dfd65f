"""ODIN in batches against the image-by-image loop of the published code: images per second on one core, in one run."""

from __future__ import annotations

import time

import torch

from clad_lib.models import ResNet18
from clad_lib.scoring import log_confidence, odin

IMAGES, LOOPED, SIZE, TEMPERATURE, EPSILON = 10_000, 200, 28, 1000.0, 0.0014


def one_by_one(classifier: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The same score as the published code computes it: one image a call, gradients to every weight, float32, NCHW."""
    scores = []
    for image in images.float().div(255):
        batch = image[None].requires_grad_(True)
        (-log_confidence(classifier(batch), temperature=TEMPERATURE)).sum().backward()
        nudged = batch - EPSILON * batch.grad.sign()
        scores.append(-log_confidence(classifier(nudged.detach()), temperature=TEMPERATURE).detach())
        classifier.zero_grad()
    return torch.cat(scores)


def rate(count: int, call) -> float:
    """Images a second."""
    started = time.perf_counter()
    call()
    return count / (time.perf_counter() - started)


def main() -> None:
    """Time both sides twice, alternating, for our CPU stem and for the published one."""
    torch.set_num_threads(1)
    images = torch.randint(0, 256, (IMAGES, 1, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for stem in ("small", "published"):
        torch.manual_seed(0)
        classifier = ResNet18(1, SIZE, classes=10, stem=stem, mean=torch.tensor([0.5]), std=torch.tensor([0.3])).eval()
        odin(classifier, images[:256])
        for _ in range(2):
            loop = rate(LOOPED, lambda net=classifier: one_by_one(net, images[:LOOPED]))
            batched = rate(IMAGES, lambda net=classifier: odin(net, images, temperature=TEMPERATURE, epsilon=EPSILON))
            print(f"{stem:9} stem: loop {loop:7.1f} images/s, batches {batched:7.1f} images/s, ratio {batched / loop:.1f}")


if __name__ == "__main__":
    main()
