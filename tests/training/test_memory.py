"""What a model takes to train against the memory of machines that we only imagine."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vitkit.errors import ConfigError
from vitkit.models import build, find_config
from vitkit.training import memory
from vitkit.training import prepare as training
from vitkit.training.config import resolve
from vitkit.training.memory import check_memory

NAME = "vit_tiny_patch16_224"
CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`machine(cpu=10, cuda=20)` has that many bytes."""

    def imagine(cpu: int, cuda: int = 0) -> None:
        monkeypatch.setattr(memory, "available_memory", lambda: cpu)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, cuda))

    return imagine


@pytest.mark.parametrize(("ema", "copies"), [(0.9, 5), (0, 4)])
def test_the_limit_is_what_training_keeps(
    machine: Callable[..., None], ema: float, copies: int
) -> None:
    config, settings = find_config(NAME), resolve({"ema": ema}).settings
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in build(config).parameters())
    machine(cpu=4 * copies * count)
    check_memory(config, settings, CPU)
    machine(cpu=4 * copies * count - 1)
    with pytest.raises(ConfigError, match=f"{NAME} with {count:,} parameters takes 0.1 GB"):
        check_memory(config, settings, CPU)
    machine(cpu=4 * count, cuda=4 * copies * count)
    check_memory(config, settings, CUDA)
    for cpu, cuda in ((4 * count - 1, 4 * copies * count), (4 * count, 4 * copies * count - 1)):
        machine(cpu=cpu, cuda=cuda)
        with pytest.raises(ConfigError, match="choose a smaller model") as caught:
            check_memory(config, settings, CUDA)
        assert ("cuda:1 has" in str(caught.value)) == (cpu == 4 * count)


def test_it_is_found_before_the_model_is_made(
    monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    def build(config: Any) -> None:
        raise AssertionError("the model was made")

    monkeypatch.setattr(training, "build", build)
    huge = {"model.dim": 65_536, "model.num_heads": 1, "model.depth": 1024}
    with pytest.raises(ConfigError, match="to train, more than the") as caught:
        training.prepare("digits", resolve({**tiny, **huge}))
    assert "\n" not in str(caught.value)
