"""What the severities of a corruption mean: the released parameters, for small and large images.

The authors give one table for images of 224 pixels (`make_imagenet_c.py`) and one for 32
(`make_cifar_c.py`). Both are here. Between the two sides parameters are interpolated linearly in
the logarithm of the side; smaller images are treated like those of 32, larger like those of 224.
"""

import math

SEVERITIES = (1, 2, 3, 4, 5)
SMALL, LARGE = 32, 224  # pixels

Level = tuple[float, ...]
Levels = tuple[Level, Level, Level, Level, Level]


def _single(*values: float) -> Levels:
    one, two, three, four, five = ((value,) for value in values)
    return one, two, three, four, five


def _of_244(*level: float) -> Level:
    """Shares of the side: those of the elastic transform are of 244 for images of 224 pixels."""
    return tuple(value * 244 / 224 for value in level)


# For each kind the levels at 32 and at 224 pixels. Meanings are those of the functions' parameters.
RELEASED: dict[str, tuple[Levels, Levels]] = {
    "gaussian_noise": (
        _single(0.04, 0.06, 0.08, 0.09, 0.10),
        _single(0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot_noise": (_single(500, 250, 100, 75, 50), _single(60, 25, 12, 5, 3)),
    "impulse_noise": (_single(0.01, 0.02, 0.03, 0.05, 0.07), _single(0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": (_single(0.06, 0.1, 0.12, 0.16, 0.2), _single(0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": (_single(0.4, 0.6, 0.7, 0.8, 1), _single(1, 2, 3, 4, 6)),
    "defocus_blur": (
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    ),
    "glass_blur": (
        ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    ),
    "motion_blur": (
        ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    ),
    "zoom_blur": (
        ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    ),
    "fog": (
        ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
    "snow": (
        (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "brightness": (_single(0.05, 0.1, 0.15, 0.2, 0.3), _single(0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (_single(0.75, 0.5, 0.4, 0.3, 0.15), _single(0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (
        ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
    "elastic_transform": (
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        (
            _of_244(2, 0.7, 0.1),
            _of_244(2, 0.08, 0.2),
            _of_244(0.05, 0.01, 0.02),
            _of_244(0.07, 0.01, 0.02),
            _of_244(0.12, 0.01, 0.02),
        ),
    ),
    "pixelate": (_single(0.95, 0.9, 0.85, 0.75, 0.65), _single(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": (_single(80, 65, 58, 50, 40), _single(25, 18, 15, 10, 7)),
}


def levels(kind: str, severity: int, side: int) -> Level:
    """The parameters of a kind at a severity for images whose smaller side has `side` pixels."""
    small, large = (table[severity - 1] for table in RELEASED[kind])
    share = math.log(side / SMALL) / math.log(LARGE / SMALL)
    share = min(max(share, 0.0), 1.0)
    return tuple(a + share * (b - a) for a, b in zip(small, large, strict=True))


def in_words(side: int) -> str:
    """Which parameters images of a side get."""
    if side <= SMALL:
        return f"severities as published for {SMALL} pixels"
    if side >= LARGE:
        return f"severities as published for {LARGE} pixels"
    return f"severities for {side} pixels, between those published for {SMALL} and {LARGE}"
