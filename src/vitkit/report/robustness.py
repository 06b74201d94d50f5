"""Robustness to corruptions made visible: a curve for each group of kinds."""

from vitkit.evaluation.corruptions import GROUPS, SEVERITIES
from vitkit.evaluation.corruptions.levels import in_words
from vitkit.evaluation.metrics import Evaluation
from vitkit.evaluation.robustness import Robustness
from vitkit.report.curves import Axis, Chart, plot

TONES = {group: f"tone-{number}" for number, group in enumerate(GROUPS, 1)}


def chart(evaluation: Evaluation, borne: Robustness) -> Chart | None:
    """Top-1 of each group of kinds from clean images to severity 5."""
    series = {}
    for group, kinds in GROUPS.items():
        rows = [borne.kinds[kind] for kind in kinds]
        means = [100 * sum(column) / len(rows) for column in zip(*rows, strict=True)]
        series[group] = list(enumerate([100 * evaluation.top1, *means]))
    ticks = tuple((float(n), str(n) if n else "clean") for n in (0, *SEVERITIES))
    return plot(
        "Top-1 by severity, %",
        {name: [(float(at), value) for at, value in points] for name, points in series.items()},
        Axis("severity", 0, SEVERITIES[-1], ticks),
        lambda value: f"{value:.1f} %",
        limits=(0, 100),
        tones=TONES,
    )


def words(borne: Robustness) -> str:
    """Which severities the images had."""
    height, width = borne.image_size
    size = f"{height}x{width}" if height != width else f"{width}"
    return f"Model inputs of {size} pixels were corrupted; {in_words(min(borne.image_size))}."
