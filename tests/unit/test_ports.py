"""Ports that are chosen can be used."""

import random
import socket

import pytest

from dreamr.cluster.ports import free_port


def test_nobody_listens_on_it_and_outgoing_connections_do_not_take_it() -> None:
    port = free_port("127.0.0.1")
    assert port < 32_768
    with socket.socket() as found:
        found.bind(("127.0.0.1", port))


def test_one_that_is_listened_on_or_spoken_for_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listening:
        port = free_port("127.0.0.1")
        listening.bind(("127.0.0.1", port))
        listening.listen()
        monkeypatch.setattr(random, "sample", lambda *_: [port, port + 1, port + 2])
        assert free_port("127.0.0.1", {port + 1}) == port + 2
        monkeypatch.setattr(random, "sample", lambda *_: [port])
        with pytest.raises(OSError, match="no free port"):
            free_port("127.0.0.1")
