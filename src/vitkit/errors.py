"""The errors that a caller can cause, and therefore catch.

    VitkitError
    ├── ConfigError      an argument or setting breaks a rule
    ├── ImageError       bytes that are not an image we open, or not a whole one
    ├── DataError        a data set that cannot be used as it is
    ├── WeightsError     a weights file that cannot be read or does not fit the model
    ├── CheckpointError  a run or checkpoint directory that is damaged or absent
    └── MissingExtra     an optional dependency is not installed

Each message is one line: the value, the rule, the remedy. Any other exception that leaves vitkit is
a defect of vitkit and keeps its traceback.
"""

import difflib
from collections.abc import Iterable


class VitkitError(Exception):
    """Root of every error that vitkit raises on purpose."""


class ConfigError(VitkitError, ValueError):
    """An argument or setting breaks a rule."""


class ImageError(VitkitError, ValueError):
    """Bytes that are not an image we open, or not a whole one."""


class DataError(VitkitError, ValueError):
    """A data set that cannot be used as it is."""


class WeightsError(VitkitError, ValueError):
    """A weights file that cannot be read or does not fit the model."""


class CheckpointError(VitkitError, ValueError):
    """A run or checkpoint directory that is damaged or absent."""


class MissingExtra(VitkitError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message: `, did you mean 'x'?` for the most similar known word, or nothing.

    Upper case and lower count as the same, except between words that differ in nothing else.
    """
    words = sorted(known)
    folded = [other.casefold() for other in words]
    sought = word.casefold()
    close = difflib.get_close_matches(sought, folded, n=1)
    alike = [w for w, other in zip(words, folded, strict=True) if other in close]
    beginning = [w for w, other in zip(words, folded, strict=True) if other.startswith(sought)]
    best = difflib.get_close_matches(word, alike, n=1, cutoff=0) or (beginning if word else [])
    return f", did you mean {best[0]!r}?" if best else ""
