"""What is to be explained: the score of a class, or of one class against another."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Target:
    """A class for each image, (B,), and perhaps another one that it is held against."""

    label: Tensor
    against: Tensor | None = None

    def score(self, logits: Tensor) -> Tensor:
        """The logit of the class, less that of the other: (B, K) -> (B,)."""
        score = logits.gather(1, self.label[:, None])[:, 0]
        if self.against is not None:
            score = score - logits.gather(1, self.against[:, None])[:, 0]
        return score

    def clone(self) -> "Target":
        """The same in tensors of its own, which autograd takes even if these are of inference."""
        against = None if self.against is None else self.against.clone()
        return Target(self.label.clone(), against)

    def repeat(self, times: int) -> "Target":
        """The same for every image `times` in a row: (B,) -> (B * times,)."""
        against = None if self.against is None else self.against.repeat_interleave(times)
        return Target(self.label.repeat_interleave(times), against)
