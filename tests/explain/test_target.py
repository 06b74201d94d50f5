"""Scores of classes, read from logits by hand."""

import torch

from vitkit.explain.target import Target

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])


def test_score_is_the_logit_of_each_images_class() -> None:
    assert Target(torch.tensor([2, 0])).score(LOGITS).tolist() == [4.0, 8.0]


def test_score_against_another_class_is_their_difference() -> None:
    target = Target(torch.tensor([2, 0]), against=torch.tensor([0, 1]))
    assert target.score(LOGITS).tolist() == [3.0, -8.0]


def test_repeat_keeps_images_together() -> None:
    target = Target(torch.tensor([2, 0]), torch.tensor([1, 2])).repeat(3)
    assert target.label.tolist() == [2, 2, 2, 0, 0, 0]
    assert target.against is not None and target.against.tolist() == [1, 1, 1, 2, 2, 2]
    assert Target(torch.tensor([1])).repeat(2).against is None


def test_a_clone_of_inference_tensors_can_be_differentiated() -> None:
    with torch.inference_mode():
        target = Target(torch.tensor([2, 0]), torch.tensor([1, 1]))
    logits = LOGITS.clone().requires_grad_()
    target.clone().score(logits).sum().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [[0.0, -1.0, 1.0], [1.0, -1.0, 0.0]]
