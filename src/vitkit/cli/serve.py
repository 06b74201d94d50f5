"""`vitkit serve`."""

import ipaddress
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from vitkit.cli.options import Checkpoint, Device, MaxMegabytes, MaxMegapixels, ModelOfFile
from vitkit.cli.screen import Screen, warn
from vitkit.errors import ConfigError, DataError, MissingExtra

if TYPE_CHECKING:
    from vitkit.runtime.device import Precision
    from vitkit.serve.samples import Sample

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")  # what a browser may call this machine


def serve(
    checkpoint: Checkpoint,
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen; others than this machine's own need --token or --open."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="VITKIT_TOKEN", help="What clients must send as Bearer token."),
    ] = None,
    anyone: Annotated[
        bool, typer.Option("--open", help="Let anyone who reaches --host in, without a token.")
    ] = False,
    name: Annotated[str | None, typer.Option(help="Of the model; default: the CKPT's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at a time, at most.")] = 32,
    delay: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a request waits for others.")
    ] = 3.0,
    waiting: Annotated[int, typer.Option(min=1, help="Requests inside, at most.")] = 256,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds until an answer is due.")] = 30.0,
    model: ModelOfFile = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or auto.")] = "fp32",
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Images that the page offers; default: some the run held out."
        ),
    ] = None,
    max_megapixels: MaxMegapixels = 50,
    max_megabytes: MaxMegabytes = 20,
) -> None:
    """Serve a model: a page to look into it with, and an API."""
    check_host(host, token, anyone=anyone)
    try:
        from vitkit.serve.app import make_app
        from vitkit.serve.listen import listen
        from vitkit.serve.samples import samples_of
    except ImportError as error:
        raise MissingExtra(
            f"{error.name} is not installed; run: pip install 'vitkit[serve]'"
        ) from None
    from vitkit.classifier import load
    from vitkit.serve.settings import Limits

    limits = Limits(
        batch_size=batch_size,
        delay=delay / 1000,
        waiting=waiting,
        seconds=timeout,
        megabytes=max_megabytes,
        megapixels=max_megapixels,
    )
    # In a thread that ends. OpenMP counts the helpers of one that stays: more threads than cores,
    # it finds, and lets those of the batches sleep at every step.
    with Screen() as screen, ThreadPoolExecutor(1) as thread:
        classifier = thread.submit(
            load,
            checkpoint,
            model=model,
            device=device,
            precision=cast("Precision", precision),
            listen=screen,
        ).result()
    for note in classifier.notes:
        warn(f"guessed {note}")
    if not classifier.classes:
        raise ConfigError(f"{checkpoint} has no head, so no answers; serve a classifier")
    title = name or Path(str(checkpoint).rstrip("/")).name.partition("@")[0]
    named = f"[{host}]" if ":" in host else host
    own = (*LOOPBACK, named) if is_loopback(host) and token is None else None
    app = make_app(
        classifier,
        name=title,
        limits=limits,
        token=token,
        hosts=own,
        samples=samples_of(samples) if samples else held_out(checkpoint),
    )
    listen(app, host, port, say=lambda address: typer.echo(f"{title} at {address}"))


def held_out(checkpoint: Path) -> "list[Sample]":
    """Samples that the run held out; none, and a warning, where its images are gone."""
    from vitkit.serve.samples import samples_of_run

    try:
        return samples_of_run(checkpoint)
    except DataError as error:
        warn(str(error))
        return []


def check_host(host: str, token: str | None, *, anyone: bool) -> None:
    """Let only this machine in, unless there is a token or the user waives it.

    Raises:
        ConfigError: others could get in.
    """
    if token is not None and len(token) < 8:
        raise ConfigError("--token has fewer than 8 characters; choose a longer one")
    if not (is_loopback(host) or token is not None or anyone):
        raise ConfigError(
            f"--host {host} lets others in; give them a --token, or say --open to let anyone in"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
