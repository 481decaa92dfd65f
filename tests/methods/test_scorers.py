"""What the fitted methods ask of images, and the features that some of them share."""

from __future__ import annotations

import pytest
import torch

from clad_lib.clad.networks import ConvAutoencoder
from clad_lib.clad.training import infer
from clad_lib.methods.scorers import (
    FittedScorer,
    NotApplicable,
    check_training,
    encoder_features,
    pixels,
)

IMAGES = torch.arange(3 * 2 * 4 * 4, dtype=torch.uint8).reshape(3, 2, 4, 4)


def test_a_scorer_refuses_images_of_another_shape_before_it_scores_them():
    scorer = FittedScorer(lambda images: images.flatten(1).float().sum(1), (2, 4, 4))
    assert torch.equal(scorer(IMAGES), IMAGES.flatten(1).float().sum(1))
    for other in (IMAGES[:, :1], IMAGES[..., :3], IMAGES[0], IMAGES[None]):
        with pytest.raises(ValueError, match=r"expected \(N, \*\(2, 4, 4\)\) as in training"):
            scorer(other)


def test_what_no_method_can_be_fitted_to_is_refused():
    check_training(IMAGES, least=3)
    with pytest.raises(NotApplicable, match=r"got 3 training image\(s\): expected 4 or more"):
        check_training(IMAGES, least=4)
    with pytest.raises(ValueError, match=r"expected \(N, C, H, W\)"):
        check_training(IMAGES[0])
    for value in ("nan", "inf"):
        with pytest.raises(ValueError, match="NaN or infinite"):
            check_training(torch.full((2, 1, 4, 4), float(value)))


def test_pixels_are_rows_in_the_order_of_channel_row_column():
    expected = IMAGES.reshape(3, 32).float() / 255
    assert torch.equal(pixels(IMAGES), expected)
    assert torch.equal(pixels(IMAGES.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(pixels(expected.reshape(3, 2, 4, 4)), expected)


def test_the_features_are_those_under_the_latent_and_a_copy():
    model = ConvAutoencoder(2, 4, latent=3).eval()
    encoder = encoder_features(model)
    before = infer(encoder, IMAGES)
    assert before.shape == (3, 512)
    with torch.no_grad():
        latents = model.to_latent(before)
    assert torch.allclose(latents, infer(model, IMAGES, function=model.encode), atol=1e-6)
    with torch.no_grad():
        model.encoder[0].weight.zero_()
    assert torch.equal(infer(encoder, IMAGES), before)
