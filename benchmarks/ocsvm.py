"""The one-class SVM, exact and by landmarks, against scikit-learn's OneClassSVM.

`python benchmarks/ocsvm.py [--small]`. Fits 10,000 random images of 28x28 pixels and scores 10,000
more. The exact scores must be scikit-learn's; landmarks must rank the images much alike.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from scipy.stats import spearmanr
from sides import Row, asked, in_turn, ratios, show
from sklearn.svm import OneClassSVM

from clad_lib.methods.kernel import fit_boundary


def main() -> None:
    """Time fitting, then scoring."""
    options = asked(__doc__)
    count, repeats = (1000, 1) if options.small else (10_000, 2)
    random = torch.Generator().manual_seed(0)
    basis = torch.randn(30, 784, generator=random) / 20
    rows = (torch.randn(2 * count, 30, generator=random) @ basis + 0.3).clamp(0, 1)
    train, tested = rows.split(count)
    images, more = train.view(-1, 1, 28, 28), tested.view(-1, 1, 28, 28)
    plain = OneClassSVM(nu=0.1, gamma="scale")
    fit_ocsvm = partial(fit_boundary, nu=0.1, gamma="scale", scale=0.1 * count)
    fit_ocsvm(images[:50], exact_up_to=1)  # what is loaded first is not timed
    fitting = {
        "exact": partial(fit_ocsvm, images),
        "landmarks": partial(fit_ocsvm, images, exact_up_to=1, landmarks=min(1000, count // 2)),
        "scikit-learn": partial(plain.fit, train.double().numpy()),
    }
    fitted = in_turn(fitting, repeats=repeats)
    scoring = {
        "exact": partial(fitted["exact"].result, more),
        "landmarks": partial(fitted["landmarks"].result, more),
        "scikit-learn": lambda: -plain.decision_function(tested.double().numpy()),
    }
    scored = in_turn(scoring, repeats=repeats)
    theirs = scored["scikit-learn"].result
    np.testing.assert_allclose(scored["exact"].result, theirs, rtol=1e-4, atol=1e-4)
    table = []
    for name in ("exact", "landmarks"):
        alike = spearmanr(scored[name].result, theirs).statistic
        for what, costs in (("fit", fitted), ("score", scored)):
            faster = ratios(costs[name], costs["scikit-learn"])
            table.append(Row(f"{what}, {name}", "scikit-learn", *faster, agreement=float(alike)))
    show(options, f"OCSVM of {count:,} images", table, agreement="rank correlation of the scores")


if __name__ == "__main__":
    main()
