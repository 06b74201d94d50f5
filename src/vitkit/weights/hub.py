"""Checkpoints from the Hugging Face hub, through its own library: cached, resumed, verified."""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitkit.errors import ConfigError, WeightsError
from vitkit.progress import Listener, Progress, silent
from vitkit.weights.files import find_weights, listed_shards

SCHEMES = ("hf-hub:", "hf_hub:")
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
SHA256 = re.compile(r"[0-9a-f]{64}")  # a large file's tag on the hub; small ones have a git hash
CHUNK = 2**22  # bytes hashed at a time


def is_reference(text: object) -> bool:
    """Whether this names a repository of the hub: `hf-hub:owner/name[@revision]`."""
    return str(text).startswith(SCHEMES)


def fetch(reference: str, *, listen: Listener = silent) -> Path:
    """The local directory of a repository, with its description and weights; downloaded if need be.

    What `HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` say is followed, and a download
    that broke off goes on where it ended.

    Raises:
        ConfigError: the reference is malformed.
        WeightsError: the repository cannot be had, has no weights, or what came is not what it has.
    """
    repository, revision = parse(reference)
    with one_line(repository, revision):
        names = list(choose(list_files(repository, revision), repository))
        paths = [download(repository, revision, name, listen) for name in names]
        shards = shards_of([path for path in paths if path.name.endswith(".index.json")])
        paths += [download(repository, revision, name, listen) for name in shards]
    return paths[0].parent


def parse(reference: str) -> tuple[str, str | None]:
    """`owner/name` and the revision, if there is one.

    Raises:
        ConfigError: it is not of that form.
    """
    text = next((reference.removeprefix(s) for s in SCHEMES if reference.startswith(s)), reference)
    repository, at, revision = text.partition("@")
    part = r"[A-Za-z0-9][\w.\-]*"
    if not re.fullmatch(rf"{part}/{part}", repository) or (at and not revision):
        raise ConfigError(f"{reference!r} is no repository; write hf-hub:owner/name[@revision]")
    return repository, revision or None


def list_files(repository: str, revision: str | None) -> list[str]:
    """Names of the files in a repository's root, or offline of those that are in the cache."""
    from huggingface_hub import HfApi, constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    if not constants.HF_HUB_OFFLINE:
        info = HfApi(endpoint=os.environ.get("HF_ENDPOINT")).model_info(
            repository, revision=revision
        )
        return [file.rfilename for file in info.siblings or () if "/" not in file.rfilename]
    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return []
    return [
        file.file_name
        for found in repositories
        if found.repo_id == repository
        for version in found.revisions
        if revision is None or revision in (version.commit_hash, *version.refs)
        for file in version.files
    ]


def choose(names: Iterable[str], repository: str) -> Iterator[str]:
    """The files that are needed: descriptions, and the best of the weights.

    Raises:
        WeightsError: there are no weights.
    """
    there = set(names)
    weights = find_weights(there, repository)
    yield from (name for name in DESCRIPTIONS if name in there)
    yield weights


def shards_of(indices: Iterable[Path]) -> list[str]:
    """Names of the files that an index of weights is about.

    Raises:
        WeightsError: it is no such index.
    """
    return sorted({name for index in indices for name in listed_shards(index)})


def download(repository: str, revision: str | None, name: str, listen: Listener) -> Path:
    """One file, from the cache or the hub, its hash verified when it is new.

    Raises:
        WeightsError: its hash is not the hub's.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, name, revision=revision)
    path = Path(
        hf_hub_download(
            repository,
            name,
            revision=revision,
            endpoint=os.environ.get("HF_ENDPOINT"),
            tqdm_class=bar(name, listen),
        )
    )
    blob = path.resolve()
    if not isinstance(cached, str) and SHA256.fullmatch(blob.name) and sha256(blob) != blob.name:
        blob.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise WeightsError(
            f"{name} of {repository} came with another hash than the hub's; it was thrown away, "
            "try again"
        )
    return path


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def bar(name: str, listen: Listener) -> Any:
    """A class for huggingface_hub that tells a listener how much of a file is there."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # huggingface_hub's own
            super().__init__(*args, **kwargs | {"file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            told: bool | None = super().update(n)
            total = int(self.total or 0)
            listen(Progress(f"get {name}", min(int(self.n), total), total))
            return told

    return Bar


@contextmanager
def one_line(repository: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line each."""
    import httpx
    from huggingface_hub import errors

    at = f"{repository}@{revision}" if revision else repository
    try:
        yield
    except errors.GatedRepoError:
        raise WeightsError(
            f"{at} is gated; accept its conditions on the hub, and set HF_TOKEN to your token"
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(f"{repository} has no revision {revision!r}; leave it out") from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{at} is not on the hub, or is private; check its name, or set HF_TOKEN"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise WeightsError(
            f"{at} is not in the cache, and the hub cannot be reached; check the network, or unset "
            "HF_HUB_OFFLINE"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else "no answer"
        raise WeightsError(f"{at} cannot be fetched: the hub answers {status}; try later") from None
    except (httpx.HTTPError, ConnectionError, TimeoutError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{at} cannot be fetched: {reason}; check the network") from None
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise WeightsError(f"{at} cannot be stored: {reason}") from None
