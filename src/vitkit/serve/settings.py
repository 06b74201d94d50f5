"""What a server may be told about its limits."""

from dataclasses import dataclass

from vitkit.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much, how long and how many.

    Raises:
        ConfigError: a number out of its range.
    """

    batch_size: int = 32  # images that the model is run on together, at most
    delay: float = 0.003  # seconds that a request waits for others
    waiting: int = 256  # requests inside the server, at most
    explaining: int = 16  # and of those, maps that wait
    waiting_megabytes: float = 512.0  # bodies of all requests inside, together
    seconds: float = 30.0  # until an answer must be there
    upload_seconds: float = 15.0  # until a request must have arrived
    megabytes: float = 20.0  # of a request's body
    megapixels: float = 50.0  # of an image

    def __post_init__(self) -> None:
        for name in ("batch_size", "waiting", "explaining"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} is less than 1")
        if self.delay < 0:
            raise ConfigError(f"delay={self.delay} is below 0 seconds; try 0.003")
        for name in ("seconds", "upload_seconds", "waiting_megabytes", "megabytes", "megapixels"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)} must be above 0")

    @property
    def max_bytes(self) -> int:
        """Of a request's body."""
        return round(self.megabytes * 1e6)

    @property
    def max_pixels(self) -> int:
        """Of an image."""
        return round(self.megapixels * 1e6)
