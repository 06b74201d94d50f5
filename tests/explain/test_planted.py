"""Planted objects: what the model sees, and where its object is."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitkit.data import synthetic
from vitkit.data.transforms import Preprocess
from vitkit.explain.planted import fit_mask, planted

PREPROCESSES = [
    Preprocess(image_size=(48, 48)),
    Preprocess(image_size=(40, 64), crop=0.875),
    Preprocess(image_size=(64, 40), crop=0.8, interpolation="bilinear"),
    Preprocess(image_size=(40, 64), crop_mode="squash"),
    Preprocess(image_size=(56, 56), mean=(0.5,), std=(0.5,)),
]


@pytest.mark.parametrize("preprocess", PREPROCESSES)
def test_a_mask_lies_where_its_object_does(preprocess: Preprocess) -> None:
    """A white object on black: where the model's input is above grey is where the mask is."""
    mask = np.zeros((50, 70), np.bool_)
    mask[11:29, 20:51] = mask[5:40, 33:37] = True
    image = np.repeat(np.where(mask, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
    x = preprocess(image)
    fitted = fit_mask(mask, preprocess)
    assert fitted.dtype == np.bool_
    assert fitted.any()
    np.testing.assert_array_equal(fitted, x[0].numpy() > 0)


def test_half_covered_pixels_belong_to_the_mask() -> None:
    mask = np.random.default_rng(0).random((60, 60)) < 0.5
    fitted = fit_mask(mask, Preprocess(image_size=(20, 20), interpolation="bilinear"))
    resized = Image.fromarray(mask.astype(np.float32)).resize((20, 20), Image.Resampling.BILINEAR)
    covered = np.asarray(resized)
    clear = np.abs(covered - 0.5) > 0.01  # of rounding to whole grey values
    assert clear.mean() > 0.8
    np.testing.assert_array_equal(fitted[clear], covered[clear] > 0.5)


def test_examples_are_the_images_of_shapes() -> None:
    preprocess = Preprocess(image_size=(32, 32))
    examples = list(planted(preprocess, count=10, size=48, seed=3))
    assert [example.label for example in examples] == [i % 8 for i in range(10)]
    drawn = synthetic.draw(7, seed=3, size=48)
    torch.testing.assert_close(examples[7].x, preprocess(drawn.image), rtol=0, atol=0)
    assert examples[7].mask is not None
    np.testing.assert_array_equal(examples[7].mask, fit_mask(drawn.mask, preprocess))
    other = next(iter(planted(preprocess, count=1, size=48, seed=4)))
    assert not torch.equal(other.x, examples[0].x)
