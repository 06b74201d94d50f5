"""All checks of a set in one pass over its images, and what came of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitkit.data.audit import DataSummary, summarise
from vitkit.data.check.copies import (
    Copy,
    Exact,
    find_conflicts,
    find_exact,
    find_leaks,
    find_near,
)
from vitkit.data.check.look import Looks, look
from vitkit.data.check.near import FLAT, TURNS, Pairs
from vitkit.data.check.outliers import Unusual, find_unusual
from vitkit.data.layout import SPLITS
from vitkit.data.sources import Sample, Source
from vitkit.progress import Listener, silent

FEW = 10  # images of a class in train, below which it can hardly be learned
FAR_FEWER = 10  # times fewer images than the middle class
COLUMNS = ("file_name", "finding", "value", "threshold", "detail")  # of the list of findings

Finding = tuple[str, str, str, str, str]  # by COLUMNS


@dataclass(frozen=True, kw_only=True)
class DataCheck:
    """What was found; rows count the samples."""

    samples: tuple[Sample, ...]
    keys: tuple[bytes | None, ...]  # what each contains; None: unreadable
    summary: DataSummary
    max_unreadable: float  # share of the samples
    exact: tuple[Exact, ...]
    near: Pairs
    leaks: tuple[Copy, ...]  # images of val or test with a copy to train on, or of test in val
    conflicts: tuple[Copy, ...]  # copies under different labels
    unusual: tuple[Unusual, ...]  # for every rule, be there any or not
    rare: tuple[str, ...]  # classes with too few images to train on
    flat: int  # images too even to be compared for near copies

    @property
    def near_images(self) -> int:
        """Images that are a near copy of another, copies of one picture counted once."""
        return len(np.unique(np.concatenate([self.near.first, self.near.second])))

    @property
    def serious(self) -> tuple[str, ...]:
        """What must be put right before a result can be trusted, as sentences."""
        found = []
        unreadable, total = len(self.summary.unreadable), len(self.samples)
        if unreadable > self.max_unreadable * total:
            found.append(
                f"{unreadable:,} of {total:,} files cannot be read, more than the limit of "
                f"{self.max_unreadable:.3g} of them: replace or remove them."
            )
        if self.leaks:
            exact = sum(copy.exact for copy in self.leaks)
            found.append(
                f"{len(self.leaks):,} images to test on have a copy in an earlier split "
                f"({exact:,} exact, {len(self.leaks) - exact:,} nearly the same): a score on them "
                "is too high. Remove one of each pair."
            )
        return tuple(found)

    def findings(self) -> Iterator[Finding]:
        """One line for every finding, by file."""
        names = [sample.name for sample in self.samples]
        for name, reason in self.summary.unreadable:
            yield name, "unreadable", "", "", reason
        for name in self.summary.skipped:
            yield name, "outside the class folders", "", "", ""
        for group in self.exact:
            how = "same file" if group.same_file else "same pixels"
            kept, *others = sorted(group.rows, key=self._place)
            for row in others:
                yield names[row], "exact copy", "1", "1", f"{how} as {names[kept]}"
        for first, second, alike, turn in self.near_rows():
            yield names[second], "near copy", f"{alike:.4f}", "", f"{names[first]} {TURNS[turn]}"
        for copy in self.leaks:
            detail = f"{names[copy.other]} {copy.how}"
            yield names[copy.row], "leak", f"{copy.alike:.4f}", "", detail
        for copy in self.conflicts:
            detail = f"{names[copy.other]} has another label"
            yield names[copy.row], "conflict", f"{copy.alike:.4f}", "", detail
        for some in self.unusual:
            for row, value in zip(some.rows.tolist(), some.values.tolist(), strict=True):
                threshold = f"{some.threshold:.4g}"
                yield names[row], some.rule.finding, f"{value:.4g}", threshold, some.rule.what

    def near_rows(self) -> Iterator[tuple[int, int, float, int]]:
        """Rows, likeness and turn of every pair of near copies."""
        near = self.near
        columns = (near.first.tolist(), near.second.tolist(), near.alike.tolist())
        return zip(*columns, near.turn.tolist(), strict=True)

    def to_json(self) -> dict[str, Any]:
        """What `vitkit data check --json` prints."""
        summary = self.summary
        names = [sample.name for sample in self.samples]
        return {
            "source": summary.source,
            "images": summary.images,
            "classes": {
                name: {split: counts[place] for split, counts in summary.counts.items()}
                for place, name in enumerate(summary.classes)
            },
            "imbalance": summary.imbalance if np.isfinite(summary.imbalance) else None,
            "rare": self.rare,
            "unreadable": [{"file": name, "reason": why} for name, why in summary.unreadable],
            "skipped": summary.skipped,
            "exact": [
                {"files": [names[row] for row in group.rows], "same_file": group.same_file}
                for group in self.exact
            ],
            "near": [
                {"file": names[first], "other": names[second], "alike": alike, "how": TURNS[turn]}
                for first, second, alike, turn in self.near_rows()
            ],
            "flat": self.flat,
            "leaks": [self._copy(copy, "split") for copy in self.leaks],
            "conflicts": [self._copy(copy, "label") for copy in self.conflicts],
            "unusual": {some.rule.finding: _unusual(some, names) for some in self.unusual},
            "serious": self.serious,
        }

    def _copy(self, copy: Copy, what: str) -> dict[str, Any]:
        ours, theirs = self.samples[copy.row], self.samples[copy.other]
        values = [self.label(ours), self.label(theirs)]
        if what == "split":
            values = [ours.split or "train", theirs.split or "train"]
        return {
            "file": ours.name,
            "other": theirs.name,
            f"{what}s": values,
            "alike": copy.alike,
            "how": copy.how,
        }

    def _place(self, row: int) -> int:
        """Where the split of a row comes: what is trained on is kept rather than tested on."""
        return SPLITS.index(self.samples[row].split or "train")

    def label(self, sample: Sample) -> str:
        """The name of a sample's class."""
        return "" if sample.label is None else self.summary.classes[sample.label]


def check_data(
    source: Source,
    *,
    max_unreadable: float = 0.01,
    workers: int | None = None,
    listen: Listener = silent,
) -> DataCheck:
    """Read every image of a source once and look for what would spoil training or its score.

    Memory: about 1.5 KB an image. Time: that of decoding; comparing adds 15 s for 100,000 images on
    one core, and grows with the square of their number.
    """
    looks = look(source, workers=workers, listen=listen)
    return judge(source, looks, max_unreadable=max_unreadable, listen=listen)


def judge(
    source: Source, looks: Looks, *, max_unreadable: float = 0.01, listen: Listener = silent
) -> DataCheck:
    """Compare images that were looked at."""
    exact = find_exact(source, looks.keys)
    near = find_near(looks.keys, looks.thumbs, looks.shorter, listen=listen)
    splits = [sample.split or "train" for sample in source.samples]
    summary = summarise(source, splits, looks.keys, looks.unreadable)
    readable = np.array([key is not None for key in looks.keys], bool)
    deviation = looks.thumbs.std(axis=(1, 2), dtype=np.float32)
    return DataCheck(
        samples=source.samples,
        keys=looks.keys,
        summary=summary,
        max_unreadable=max_unreadable,
        exact=exact,
        near=near,
        leaks=find_leaks(source.samples, exact, near),
        conflicts=find_conflicts(source.samples, exact, near),
        unusual=tuple(find_unusual(looks.measures)),
        rare=_rare(summary),
        flat=int(np.count_nonzero(readable & (deviation < FLAT))),
    )


def _rare(summary: DataSummary) -> tuple[str, ...]:
    """Classes that have FEW images to train on, or FAR_FEWER than the middle one."""
    counts = summary.counts.get("train", [0] * len(summary.classes))
    middle = float(np.median(counts)) if counts else 0.0
    pairs = zip(summary.classes, counts, strict=True)
    return tuple(name for name, count in pairs if count < max(FEW, middle / FAR_FEWER))


def _unusual(some: Unusual, names: Sequence[str]) -> dict[str, Any]:
    rows = zip(some.rows.tolist(), some.values.tolist(), strict=True)
    return {
        "measure": some.rule.what,
        "median": some.median if np.isfinite(some.median) else None,
        "threshold": some.threshold if np.isfinite(some.threshold) else None,
        "files": [{"file": names[row], "value": value} for row, value in rows],
    }
