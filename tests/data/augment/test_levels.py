"""Grey levels against NumPy and Pillow."""

import numpy as np
import torch
from PIL import Image

from vitkit.data.augment.levels import luminance, per_image, to_uint8


def test_per_image() -> None:
    assert per_image(torch.arange(3)).tolist() == [[[[0]]], [[[1]]], [[[2]]]]


def test_fractions_are_dropped_and_the_rest_cut() -> None:
    x = torch.tensor([-1e6, -0.5, 0.0, 0.999, 1.0, 127.999, 254.5, 255.0, 255.9, 300.0, 1e9])
    before = x.clone()
    expected = np.clip(x.numpy(), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(to_uint8(x).numpy(), expected)
    assert torch.equal(x, before)


def test_luminance() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    colours[0, 0], colours[0, 1] = 0, 255
    expected = np.array(Image.fromarray(colours).convert("L"))
    given = luminance(torch.from_numpy(colours.transpose(2, 0, 1))[None])
    assert given.shape == (1, 1, *expected.shape)
    np.testing.assert_array_equal(given[0, 0].numpy(), expected)


def test_grey_is_its_own_luminance() -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(luminance(levels), levels.float())
