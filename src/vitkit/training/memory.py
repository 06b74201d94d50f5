"""Whether a model and what training keeps beside it fit into memory, before any of it is there."""

import torch

from vitkit.data.loader import available_memory
from vitkit.errors import ConfigError
from vitkit.models.backbone import Config
from vitkit.models.formula import parts
from vitkit.training.distributed import SOLO, Group
from vitkit.training.settings import TrainSettings

BYTES = 4  # of a float32
MOMENTS = {"adamw": 2, "lamb": 2, "sgd": 1, "muon": 1}  # that an optimiser keeps for a parameter


def check_memory(
    config: Config, settings: TrainSettings, device: torch.device, group: Group = SOLO
) -> None:
    """Compare what training keeps for each parameter with the memory of the device.

    That is its value, its gradient, what the optimiser remembers of it, and the weight average if
    there is one: the least that training takes, as activations and images come on top. What does
    not learn has but its value and its average. Weights are made in the machine's own memory and
    have to fit there too, for every rank of the machine.

    Raises:
        ConfigError: it does not fit.
    """
    count = sum(part.parameters for part in parts(config))
    learned = 1 + MOMENTS[settings.optimizer] if settings.tune == "all" else 0
    copies: float = 1 + learned + (1 if settings.ema else 0)
    if settings.parallel == "fsdp":
        copies /= group.ranks
    made = 1.0 if device.type == "cuda" else copies
    places = [("this machine has", available_memory(), group.local_ranks * made)]
    if device.type == "cuda":
        places.append((f"{device} has", torch.cuda.mem_get_info(device)[1], copies))
    for place, there, kept in places:
        needed = BYTES * kept * count
        if needed > there:
            raise ConfigError(
                f"{settings.architecture} with {count:,} parameters takes {needed / 1e9:,.1f} GB "
                f"to train, more than the {there / 1e9:,.1f} GB that {place}; "
                "choose a smaller model, or lower its model.* settings"
            )
