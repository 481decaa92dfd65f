"""Seconds to fit the exact OCSVM on 10,000 images of 784 pixels and to score 10,000 more, beside Nystroem landmarks."""

from __future__ import annotations

import time

import torch

from clad_lib.baselines import fit_ocsvm


def main() -> None:
    """Print seconds for fitting and scoring, exact and by landmarks. Images: random low-rank, clipped to [0, 1]."""
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, 30, generator=random) @ torch.randn(30, 784, generator=random) / 20 + 0.3
    train, tested = (part.clamp(0, 1).reshape(-1, 1, 28, 28) for part in rows.split(10_000))
    for limit in (10_000, 1):
        start = time.perf_counter()
        scorer = fit_ocsvm(train, exact_up_to=limit)
        fitted = time.perf_counter()
        scorer(tested)
        print(f"{scorer.method:9} fit {fitted - start:6.1f} s, score {time.perf_counter() - fitted:5.1f} s")


if __name__ == "__main__":
    main()
