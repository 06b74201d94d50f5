"""transformers' `preprocessor_config.json`, read and written."""

from collections.abc import Mapping
from typing import Any

from vitkit.errors import WeightsError
from vitkit.weights.formats.huggingface_config import pair

HALF = (0.5, 0.5, 0.5)
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
CODES = {name: code for code, name in RESAMPLING.items()}


def read_preprocess(theirs: Mapping[str, Any], image_size: tuple[int, int]) -> dict[str, Any]:
    """What a `preprocessor_config.json` of theirs does, in timm's `pretrained_cfg` keys.

    Raises:
        WeightsError: something that ours cannot do.
    """
    size, crop = theirs.get("size", image_size[0]), theirs.get("crop_size")
    if not theirs.get("do_resize", True) or theirs.get("rescale_offset"):
        raise WeightsError("a preprocessor without do_resize, or with rescale_offset, is not ours")
    shortest = size.get("shortest_edge") if isinstance(size, Mapping) else None
    frame = pair(shortest) if shortest else _sides(size)
    wanted = _sides(crop) if crop and theirs.get("do_center_crop", True) else frame
    share, mode = wanted[0] / frame[0], "center" if shortest else "squash"
    if shortest and "crop_pct" in theirs:  # ConvNeXT's: a crop for images below 384 pixels alone
        share, mode = (theirs["crop_pct"], "center") if shortest < 384 else (1.0, "squash")
    normalises = theirs.get("do_normalize", True)
    return {
        "input_size": [3, *wanted],
        "crop_pct": min(share, 1.0),
        "crop_mode": mode,
        "interpolation": _interpolation(theirs.get("resample", 2)),
        "mean": list(theirs.get("image_mean", HALF)) if normalises else [0.0] * 3,
        "std": list(theirs.get("image_std", HALF)) if normalises else [1.0] * 3,
    }


def _sides(size: Any) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, Mapping) else pair(size)


def _interpolation(code: int) -> Any:
    if code not in RESAMPLING:
        raise WeightsError(
            f"resample={code} is unknown; {', '.join(map(str, RESAMPLING))} are known"
        )
    return RESAMPLING[code]


def write_preprocess(ours: Mapping[str, Any]) -> dict[str, Any]:
    """Their `preprocessor_config.json` of timm's `pretrained_cfg` keys.

    Raises:
        WeightsError: they have none that does the same.
    """
    channels, height, width = ours["input_size"]
    share, squash = ours["crop_pct"], ours.get("crop_mode") == "squash"
    if channels != 3:
        raise WeightsError(f"transformers' processors give 3 channels, not {channels}")
    frame = {"height": int(height / share), "width": int(width / share)}
    common = {
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": CODES[ours["interpolation"]],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(ours["mean"]),
        "image_std": list(ours["std"]),
    }
    crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
    if squash and share == 1:
        return {"image_processor_type": "ViTImageProcessor", "size": frame, **common}
    if squash:
        return {"image_processor_type": "DeiTImageProcessor", "size": frame, **crop, **common}
    if height != width:
        raise WeightsError(
            f"transformers has no processor that covers {height}x{width} pixels and crops; "
            "use crop_mode=squash"
        )
    size = {"shortest_edge": frame["height"]}
    return {"image_processor_type": "BitImageProcessor", "size": size, **crop, **common}
