"""Seconds for all one-pass scores of 10,000 images from cached features, and the largest matrix that kNN builds."""

from __future__ import annotations

import resource
import time

import torch
from torch import nn

from clad_lib import scoring

TESTED, TRAIN, FEATURES, CLASSES = 10_000, 18_000, 512, 10


def main() -> None:
    """Print seconds a score, and the growth of the peak memory."""
    random = torch.Generator().manual_seed(0)
    head = nn.Linear(FEATURES, CLASSES)
    parts = []
    for count in (TESTED, TRAIN):
        features = torch.rand(count, FEATURES, generator=random).relu()
        parts.append(scoring.Outputs(head(features).detach(), features))
    tested, train = parts
    labels = torch.randint(0, CLASSES, (TRAIN,), generator=random)
    jobs = {
        "MSP, max-logit, energy": lambda: [score(tested.logits) for score in (scoring.msp, scoring.max_logit, scoring.energy)],
        "kNN": lambda: scoring.knn(tested.features, train.features),
        "Mahalanobis": lambda: scoring.mahalanobis(tested.features, train.features, labels),
        "relative Mahalanobis": lambda: scoring.mahalanobis(tested.features, train.features, labels, relative=True),
        "ViM": lambda: scoring.vim(tested, train, head),
    }  # fmt: skip
    before, total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
    for name, job in jobs.items():
        start = time.perf_counter()
        job()
        seconds = time.perf_counter() - start
        total += seconds
        print(f"{name:24} {seconds:6.2f} s")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{'all':24} {total:6.2f} s for {TESTED:,} images, {TRAIN:,} training images, {torch.get_num_threads()} threads; "
          f"peak memory grew by {grown:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    main()
