"""`vitkit models`."""

import json

from vitkit.models import list_models

PUBLISHED = {  # of the papers and of timm
    "vit_tiny_patch16_224": (5_717_416, 1.26),
    "vit_base_patch16_224": (86_567_656, 17.58),
    "deit_small_distilled_patch16_224": (22_436_432, 4.63),
    "swin_tiny_patch4_window7_224": (28_288_354, 4.51),
}
MACS = {"vit_tiny_patch16_224": 1.25, "swin_tiny_patch4_window7_224": 4.49}  # in matrix products


def test_it_is_a_table_with_exact_counts(vitkit_command) -> None:
    done = vitkit_command("models", "*tiny*224")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list_models("*tiny*224")
    assert len({line.index("arXiv") for line in lines[1:]}) == 1  # columns
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"):
        (line,) = [line for line in lines if line.split()[0] == name]
        assert line.split()[1:3] == [f"{PUBLISHED[name][0]:,}", f"{MACS[name]:.2f}"]


def test_json_is_every_model_and_nothing_else(vitkit_command) -> None:
    done = vitkit_command("models", "--json")
    assert (done.code, done.err) == (0, "")
    rows = {row["name"]: row for row in json.loads(done.out)}
    assert list(rows) == list_models()
    for name, (parameters, gmacs) in PUBLISHED.items():
        assert rows[name]["parameters"] == parameters
        assert abs(rows[name]["macs"] / 1e9 / gmacs - 1) < 0.02
        assert rows[name]["image_size"] == [224, 224]
        assert rows[name]["source"].startswith("arXiv:")
