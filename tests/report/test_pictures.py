import base64
import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vitkit.report.pictures import HEAT_SIDE, heat_map, photo


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(";base64,")
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:{picture.get_format_mimetype()}"
    return picture


def random_image(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, size=(*shape, 3), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(8, 8), (64, 1), (28, 32)])
def test_tiny_images_are_exact(shape: tuple[int, int]) -> None:
    image = random_image(*shape)
    np.testing.assert_array_equal(np.asarray(opened(photo(image))), image)


def test_slices_and_read_only_arrays_are_fine() -> None:
    image = random_image(20, 20)[::2, ::-1]
    image.flags.writeable = False
    np.testing.assert_array_equal(np.asarray(opened(photo(image))), image)


@pytest.mark.parametrize(
    ("shape", "size"), [((400, 600), (192, 128)), ((600, 400), (128, 192)), ((65, 80), (80, 65))]
)
def test_photos_shrink_and_keep_their_shape(shape: tuple[int, int], size: tuple[int, int]) -> None:
    smooth = np.zeros((*shape, 3), np.uint8) + np.uint8([200, 100, 50])
    picture = opened(photo(smooth))
    assert picture.size == size
    np.testing.assert_allclose(np.asarray(picture.convert("RGB"))[5, 5], [200, 100, 50], atol=4)


def test_heat_map_shows_shares_as_opacity() -> None:
    shares = np.array([[1, 0], [0.5, 0.2]])
    picture = np.asarray(opened(heat_map(shares)).convert("RGBA"))
    np.testing.assert_array_equal(picture[..., 3], np.round(shares * 255))
    assert len(np.unique(picture[..., :3].reshape(-1, 3), axis=0)) == 1  # one hue


@pytest.mark.parametrize("count", [31, HEAT_SIDE, HEAT_SIDE + 1, 1000, 1001])
def test_pooling_keeps_single_mistakes(count: int) -> None:
    shares = np.zeros((count, count))
    shares[count - 1, 3] = 0.8
    opacity = np.asarray(opened(heat_map(shares)).convert("RGBA"))[..., 3]
    assert max(opacity.shape) <= HEAT_SIDE
    block = -(-count // HEAT_SIDE)
    assert np.argwhere(opacity).tolist() == [[(count - 1) // block, 3 // block]]
    assert opacity.max() == 204
