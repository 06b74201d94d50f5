"""What every family's configuration has to obey, in one table and one text for each rule."""

import functools
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from vitkit.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

# Smallest and largest value of a number, or of each number of a tuple. The upper ends are far above
# anything published. They keep sizes within what tensors can count and lists within what loops can
# bear. What fits into memory only the machine can tell; `weights.store` lets a file take no more
# than the tensors that it brings.
LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (1, 65_536),
    "patch_size": (1, 65_536),
    "stem": (1, 65_536),
    "conv_layers": (1, 1024),
    "kernel_size": (1, 1023),
    "in_channels": (1, 4096),
    "num_classes": (0, 2**24),
    "dim": (1, 65_536),
    "depth": (1, 1024),
    "w0": (8, 65_536),
    "wa": (0, 65_536),
    "wm": (1.01, 1024),
    "group_width": (1, 65_536),
    "dims": (1, 65_536),  # some derive from what stands above
    "depths": (1, 1024),
    "num_heads": (1, 65_536),
    "window_size": (1, 65_536),
    "pretrained_window_sizes": (0, 65_536),
    "mlp_ratio": (0, 1024),
    "registers": (0, 65_536),
    "layer_scale": (-65_536, 65_536),
    "norm_eps": (1e-12, 1),
}
SHARES = ("dropout", "attention_dropout", "drop_path")  # in [0, 1)


def of_types(family: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in the types that the family's fields have, ready to be given to it.

    Lists become tuples, as JSON and YAML have no others, one `image_size` becomes a square, and
    numbers of NumPy become Python's. Nothing else is converted: neither `"16"` nor 16.0 is 16.

    Raises:
        ConfigError: a value of another type, or one that is not finite.
    """
    return {key: _of_type(family, key, value) for key, value in settings.items()}


def _of_type(family: type, key: str, value: Any) -> Any:
    from pydantic import ValidationError

    given, value = value, _plain(value)
    if key == "image_size" and type(value) is int:
        value = (value, value)
    if get_origin(_types(family)[key]) is Literal:
        return value  # `choices` has the better words
    try:
        return _reader(family, key).validate_python(value)
    except ValidationError as error:
        if key == "image_size":
            rule = "is not one side or (height, width) in whole pixels"
            raise ConfigError(f"image_size={reprlib.repr(given)} {rule}") from None
        rule = error.errors()[0]["msg"]
        raise ConfigError(f"{key}={reprlib.repr(given)}: {rule[0].lower()}{rule[1:]}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(one.item() if isinstance(one, np.generic) else one for one in value)
    return value.item() if isinstance(value, np.generic) else value


@functools.cache
def _types(family: type) -> dict[str, Any]:
    return get_type_hints(family)


@functools.cache
def _reader(family: type, key: str) -> "TypeAdapter[Any]":
    from pydantic import ConfigDict, TypeAdapter  # here, as importing it takes a tenth of a second

    exact = ConfigDict(strict=True, allow_inf_nan=False)
    return TypeAdapter(_types(family)[key], config=exact)


def numbers(config: Any) -> None:
    """Every number that the configuration has is within `LIMITS`, and every share within [0, 1).

    Raises:
        ConfigError: one is not, or `image_size` is no pair.
    """
    for name, (least, most) in LIMITS.items():
        values = getattr(config, name, None)
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and not least <= value <= most:  # nan neither
                raise ConfigError(f"{name}={value} is not between {least} and {most}")
    for name in SHARES:
        value = getattr(config, name, 0.0)
        if not 0 <= value < 1:
            raise ConfigError(f"{name}={value} is no probability below 1; try 0.1")
    if len(config.image_size) != 2:
        raise ConfigError(f"image_size={config.image_size} is not (height, width) in pixels")


def choices(config: Any) -> None:
    """Every word that the configuration has is one of those that its type names.

    Raises:
        ConfigError: one is not.
    """
    family: type = type(config)
    for name, kind in _types(family).items():
        value, known = getattr(config, name), get_args(kind)
        if get_origin(kind) is Literal and value not in known:
            *others, last = known
            word = reprlib.repr(value)
            raise ConfigError(f"{name}={word} is unknown; choose {', '.join(others)} or {last}")


def mlp_width(dim: int, mlp_ratio: float) -> None:
    """An MLP beside `dim` channels has at least one of its own.

    Raises:
        ConfigError: it has none.
    """
    if dim * mlp_ratio < 1:
        raise ConfigError(f"mlp_ratio={mlp_ratio} leaves the MLP no width; try 4")


def whole_patches(image_size: tuple[int, int], patch_size: int) -> None:
    """The patches fill the image.

    Raises:
        ConfigError: a side is not a multiple of `patch_size`.
    """
    for side in image_size:
        if side % patch_size:
            low = max(side // patch_size, 1) * patch_size
            raise ConfigError(
                f"image_size={side} is not a multiple of patch_size={patch_size}; "
                f"try {low} or {low + patch_size}"
            )
