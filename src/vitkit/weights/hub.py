"""Checkpoints from the Hugging Face hub, through its own library: cached, resumed, verified."""

import errno
import hashlib
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from vitkit.errors import ConfigError, VitkitError, WeightsError
from vitkit.progress import Listener, Progress, silent
from vitkit.weights.files import INDEX, find_weights, listed_shards

SCHEMES = ("hf-hub:", "hf_hub:")
DESCRIPTIONS = ("config.json", "preprocessor_config.json")
PART = r"[A-Za-z0-9_][\w.\-]{0,95}"
REFERENCE = re.compile(rf"({PART}/{PART})(?:@({PART}(?:/{PART})*))?", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}")
DEFAULT_REVISION = "main"
YES = ("1", "ON", "YES", "TRUE")  # what huggingface_hub takes for it
TIMEOUT = 10.0  # seconds without an answer
WAITS = (0.5, 1.0)  # seconds before a question is asked again
CHUNK = 1 << 22  # bytes hashed at a time


T = TypeVar("T")


def is_reference(text: object) -> bool:
    """Whether this names a repository of the hub: `hf-hub:owner/name[@revision]`."""
    return str(text).startswith(SCHEMES)


def fetch(reference: str, *, listen: Listener = silent) -> Path:
    """The local directory of a repository, with its description and weights; downloaded if need be.

    Only `config.json`, `preprocessor_config.json` and the best of the weights come. The cache is
    that of huggingface_hub; with `HF_HUB_OFFLINE=1`, or where the hub cannot be reached, it is all
    that is used. `HF_ENDPOINT`, `HF_HOME` and `HF_TOKEN` are followed. A dropped connection is
    resumed five times without any progress, and each file is compared with its hash on the hub.

    Raises:
        ConfigError: the reference is malformed.
        WeightsError: the repository cannot be had, has no weights, or what came is not what it has.
    """
    repository, revision = parse(reference)
    with _one_line(repository, revision), _quiet():
        if not _is_offline():
            try:
                return _download_all(repository, revision, listen)
            except _http_error() as error:
                found = None if _status(error) else _cached(repository, revision)
                if found is None:  # the hub answered, or the cache does not help
                    raise
                return found
        found = _cached(repository, revision)
        if found is None:
            raise WeightsError(
                f"{repository}@{revision} is not in the cache {_cache()} with all of its files, "
                "and HF_HUB_OFFLINE is set; unset it once to fetch them"
            )
        return found


def at_hand(names: Sequence[str], owner: str = "timm") -> dict[str, Path]:
    """The directories of what the cache holds whole of an owner's models, by the names given.

    A model's repository is called `name` or `name.tag`; of many tags the first counts. Nobody is
    asked.
    """
    found: dict[str, Path] = {}
    for name in names:
        for storage in sorted(_cache().glob(f"models--{owner}--{name}*")):
            repository = storage.name.removeprefix("models--").replace("--", "/", 1)
            its_name = repository.partition("/")[2].partition(".")[0]
            directory = _cached(repository, DEFAULT_REVISION) if its_name == name else None
            if directory is not None:
                found.setdefault(name, directory)
    return found


def parse(reference: str) -> tuple[str, str]:
    """`owner/name` and the revision, a branch, tag or commit.

    Raises:
        ConfigError: it is not of that form.
    """
    text = next((reference.removeprefix(s) for s in SCHEMES if reference.startswith(s)), reference)
    found = REFERENCE.fullmatch(text)
    if found is None or ".." in text or "--" in found[1]:
        raise ConfigError(f"{reference!r} is no repository; write hf-hub:owner/name[@revision]")
    return found[1], found[2] or DEFAULT_REVISION


def _download_all(repository: str, revision: str, listen: Listener) -> Path:
    files = _list_files(repository, revision)
    weights = find_weights(files, repository)
    paths = [
        _download(repository, revision, name, listen)
        for name in (*(name for name in DESCRIPTIONS if name in files), weights)
    ]
    if weights.endswith(INDEX):
        shards = sorted(listed_shards(paths[-1]))
        paths += [_download(repository, revision, name, listen) for name in shards]
    if any(path.parent != paths[0].parent for path in paths):
        raise WeightsError(f"{repository}@{revision} was changed while it was fetched; try again")
    return paths[0].parent


def _list_files(repository: str, revision: str) -> list[str]:
    """Names of the files in a repository's root."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=_endpoint())
    try:
        info = _asked(lambda: api.model_info(repository, revision=revision, timeout=TIMEOUT))
    except (KeyError, TypeError, ValueError) as error:  # such as the page of a proxy
        if isinstance(error, _http_error()):
            raise
        raise WeightsError(
            f"{repository} cannot be fetched: what answers at {_endpoint()} is no hub; check "
            "HF_ENDPOINT and the proxy"
        ) from None
    return [file.rfilename for file in info.siblings or () if "/" not in file.rfilename]


def _asked(question: Callable[[], T]) -> T:
    """What the hub answers, asked again when the connection breaks or the hub has trouble."""
    for wait in WAITS:
        try:
            return question()
        except _http_error() as error:
            if 0 < _status(error) < 500:
                raise
            time.sleep(wait)
    return question()


def _status(error: BaseException) -> int:
    """The HTTP status that the hub answered with, or 0 where it did not answer."""
    return getattr(getattr(error, "response", None), "status_code", 0)


def _download(repository: str, revision: str, name: str, listen: Listener) -> Path:
    """One file, from the cache or the hub, its hash verified when it is new.

    Raises:
        WeightsError: the disk has no room for it, or its hash is not the hub's.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub import try_to_load_from_cache as find

    where: dict[str, Any] = {"endpoint": _endpoint()}
    url = hf_hub_url(repository, name, revision=revision, **where)
    told = _asked(lambda: get_hf_file_metadata(url, timeout=TIMEOUT, **where))
    known = find(repository, name, revision=told.commit_hash, cache_dir=_cache())
    if not isinstance(known, str):
        _check_room(name, told.size or 0)
    path = Path(
        hf_hub_download(
            repository,
            name,
            revision=revision,
            cache_dir=_cache(),
            tqdm_class=_bar(name, listen),
            **where,
        )
    )
    if not isinstance(known, str):
        try:
            genuine = _is_genuine(path, told.etag or "")
        except BaseException:  # interrupted: what is not verified must not stay
            _throw_away(path)
            raise
        if not genuine:
            _throw_away(path)
            raise WeightsError(
                f"{name} of {repository} came with another hash than the hub's; it was thrown "
                "away, try again"
            )
    return path


def _is_genuine(path: Path, tag: str) -> bool:
    """Whether a file has the hash that is its tag on the hub, at which its library never looks.

    Only the large files have one, weights among them; of the small ones the size is checked.
    """
    if not SHA256.fullmatch(tag):
        return True
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest() == tag


def _throw_away(path: Path) -> None:
    """Remove a file of the cache, which is a link to its content, maybe by way of another."""
    while path.is_symlink():
        target = path.parent / os.readlink(path)
        path.unlink()
        path = target
    path.unlink(missing_ok=True)


def _check_room(name: str, size: int) -> None:
    cache = _cache()
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise WeightsError(
            f"{name} needs {size / 1e6:,.0f} MB, and {cache} has {free / 1e6:,.0f} MB left; make "
            "room, or set HF_HOME to another disk"
        )


def _cached(repository: str, revision: str) -> Path | None:
    """The directory of a repository in the cache, if its weights are all there."""
    from huggingface_hub.file_download import repo_folder_name

    storage = _cache() / repo_folder_name(repo_id=repository, repo_type="model")
    reference = storage / "refs" / revision
    commit = reference.read_text().strip() if reference.is_file() else revision
    directory = storage / "snapshots" / commit
    if not directory.is_dir():
        return None
    names = {path.name for path in directory.iterdir() if path.exists()}  # no dangling link
    try:
        weights = find_weights(names, repository)
        shards = listed_shards(directory / weights) if weights.endswith(INDEX) else {}
    except WeightsError:
        return None
    return directory if names >= shards.keys() else None


def _endpoint() -> str:
    """The address of the hub.

    Raises:
        ConfigError: `HF_ENDPOINT` is no address.
    """
    from huggingface_hub import constants

    endpoint = os.environ.get("HF_ENDPOINT") or constants.ENDPOINT
    if not re.match(r"https?://[^/\s]+", endpoint):
        raise ConfigError(f"HF_ENDPOINT={endpoint!r} is no address; begin it with https://")
    return endpoint.rstrip("/")


def _cache() -> Path:
    """Where repositories are kept, as the environment says now, not when the library was loaded."""
    from huggingface_hub import constants

    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(constants.HF_HUB_CACHE)


def _is_offline() -> bool:
    from huggingface_hub import constants

    said = os.environ.get("HF_HUB_OFFLINE")
    return bool(constants.HF_HUB_OFFLINE) if said is None else said.upper() in YES


def _bar(name: str, listen: Listener) -> Any:
    """A class for huggingface_hub that tells a listener how much of a file is there."""
    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc]
        monitor_interval = 0  # no thread

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)  # huggingface_hub's own
            super().__init__(*args, **kwargs | {"file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            told: bool | None = super().update(n)
            total = int(self.total or 0)
            listen(Progress("download", min(int(self.n), total), total, {"file": name}))
            return told

        def update_transfer(self, n: float) -> None:
            """Bytes before they are unpacked, which huggingface_hub would else show as more."""

        def set_transfer_postfix_str(self, *args: Any, **kwargs: Any) -> None:
            """Their speed."""

    return Bar


@contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, huggingface_hub does not log that it tries again; errors reach the caller."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _http_error() -> type[Exception]:
    """The root of the HTTP library's errors; which library it is depends on huggingface_hub."""
    from huggingface_hub.errors import HfHubHTTPError

    return next(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError")


@contextmanager
def _one_line(repository: str, revision: str) -> Iterator[None]:
    """Turn what huggingface_hub raises into one line each."""
    at = repository if revision == DEFAULT_REVISION else f"{repository}@{revision}"
    try:
        yield
    except VitkitError:
        raise
    except (_http_error(), OSError, RuntimeError) as error:
        from huggingface_hub.errors import LocalEntryNotFoundError

        cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) else error
        raise WeightsError(f"{at} {_explain(cause or error, repository, revision)}") from None


def _explain(error: BaseException, repository: str, revision: str) -> str:
    """What went wrong, and what to do about it."""
    from huggingface_hub import errors

    text = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
    page = f"{_endpoint()}/{repository}"
    match error:
        case errors.GatedRepoError():
            return f"is gated; accept its conditions on {page}, and set HF_TOKEN to your token"
        case errors.RevisionNotFoundError():
            return f"has no revision {revision!r}; leave it out for {DEFAULT_REVISION!r}"
        case errors.RemoteEntryNotFoundError():
            return "lacks a file that it lists; tell its owner"
        case errors.RepositoryNotFoundError():
            return "is not on the hub, or is private; check the name, or set HF_TOKEN"
    match _status(error):
        case 401 | 403:
            return (
                f"may not be read; accept the conditions on {page} if there are any, and set "
                "HF_TOKEN to a token that is valid"
            )
        case 404:
            return "is not on the hub; check the name and the revision"
        case status if status:
            return f"cannot be fetched: the hub answers with error {status}; try again later"
    if isinstance(error, _http_error() | ConnectionError | TimeoutError):
        return f"cannot be fetched from {_endpoint()}: {text}; check the network and try again"
    if getattr(error, "errno", None) == errno.ENOSPC:
        return f"does not fit on the disk of {_cache()}; make room, or set HF_HOME to another disk"
    if getattr(error, "strerror", None):
        return f"cannot be stored in {_cache()}: {getattr(error, 'strerror', '')}"
    return f"cannot be fetched: {text}; try again"
