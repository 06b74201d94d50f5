"""A stream over HTTP is whole, whatever the connection does; or it ends with one line."""

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dropping_server import DroppingServer, serving
from vitkit.data.shards.remote import JUMP, Absent, Patience, Remote, shown
from vitkit.errors import DataError

CONTENT = random.Random(0).randbytes(300_000)
QUICK = Patience(tries=3, wait=0.001, longest=0.01, timeout=5, progress=1)


@pytest.fixture
def server() -> Iterator[DroppingServer]:
    with serving({"/x.tar": CONTENT}) as server:
        yield server


def read(server: DroppingServer, patience: Patience = QUICK, size: int = 7777) -> bytes:
    """All of it."""
    remote, parts = Remote(f"{server.url}/x.tar", patience), []
    while part := remote.read(size):
        parts.append(part)
    remote.close()
    return b"".join(parts)


def test_one_request_is_enough(server: DroppingServer) -> None:
    assert read(server) == CONTENT
    assert server.asked == [("/x.tar", 0)]


@pytest.mark.parametrize("ranges", [True, False])
def test_broken_connections_are_taken_up_where_they_broke(
    server: DroppingServer, ranges: bool
) -> None:
    server.drop_after, server.ranges = (70_001 if ranges else None), ranges
    if not ranges:  # such a server begins anew, so it breaks off at once but for the last time
        server.drop_after = 150_000
        remote = Remote(f"{server.url}/x.tar", QUICK)
        first = remote.read(150_000)
        server.drop_after = None
        assert first + remote.read(len(CONTENT)) == CONTENT
        remote.close()
    else:
        assert read(server) == CONTENT
    starts = [start for _, start in server.asked]
    assert starts == ([0, 70_001, 140_002, 210_003, 280_004] if ranges else [0, 150_000])


def test_a_server_that_is_busy_is_asked_again(server: DroppingServer) -> None:
    server.refuse = 2
    assert read(server) == CONTENT
    assert len(server.asked) == 3


def test_it_gives_up_after_so_many_tries_in_one_line(server: DroppingServer) -> None:
    server.refuse = 100
    with pytest.raises(DataError, match=r"^http\S+ failed 3 times at byte 0: HTTP 503") as caught:
        read(server)
    assert "\n" not in str(caught.value) and len(server.asked) == 3


def test_a_trickle_is_no_progress(server: DroppingServer) -> None:
    server.drop_after = 1000
    with pytest.raises(DataError, match=r"^http\S+ failed 3 times at byte 3,000: the connection"):
        read(server, replace(QUICK, progress=5000))


def test_what_is_absent_is_not_asked_again(server: DroppingServer) -> None:
    with pytest.raises(Absent, match="HTTP 404"):
        Remote(f"{server.url}/y.tar", QUICK).read(1)
    assert len(server.asked) == 1


def test_a_file_that_changed_meanwhile_is_an_error(server: DroppingServer) -> None:
    server.drop_after = 1000
    remote = Remote(f"{server.url}/x.tar", QUICK)
    remote.read(1000)
    server.files["/x.tar"] = CONTENT[:-1]
    with pytest.raises(DataError, match=r"^http\S+ changed while it was read"):
        remote.read(1000)


def test_nobody_there(server: DroppingServer) -> None:
    with pytest.raises(DataError, match=r"failed 3 times.*refused"):
        Remote("http://127.0.0.1:9/x.tar", QUICK).read(1)


def test_large_members_are_jumped_over() -> None:
    content = bytes(range(256)) * (JUMP // 256 * 3)
    with serving({"/x.tar": content}) as server:
        remote = Remote(f"{server.url}/x.tar", QUICK)
        assert remote.read(10) == content[:10]
        assert remote.skip(JUMP + 7)
        assert remote.read(10) == content[JUMP + 17 :][:10]
        assert remote.skip(100)
        assert remote.read(10) == content[JUMP + 127 :][:10]
        assert not remote.skip(len(content))
        remote.close()
    assert [start for _, start in server.asked] == [0, JUMP + 17]


def test_an_empty_file_is_empty(server: DroppingServer) -> None:
    server.files["/x.tar"] = b""
    assert read(server) == b"" and len(server.asked) == 1


def test_without_a_length_the_end_is_where_it_closes(server: DroppingServer) -> None:
    server.sized = False
    assert read(server) == CONTENT


@pytest.mark.parametrize("url", ["http://", "http://[x", "http://a b/c", "http://x:y/"])
def test_malformed_addresses_are_one_line(url: str) -> None:
    with pytest.raises(DataError):
        Remote(url, QUICK).read(1)


def test_secrets_are_not_shown() -> None:
    assert shown("https://me:secret@host:1/a/b.tar?sig=secret") == "https://host:1/a/b.tar"
    assert shown("some/path?x.tar") == "some/path?x.tar"
