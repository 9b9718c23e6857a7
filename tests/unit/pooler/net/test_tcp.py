"""`tcp`: the tcp_* settings on sockets, and what Unix sockets are spared."""

from __future__ import annotations

import socket

import pytest

from pooler.net.tcp import SocketOptions

EVERYTHING = SocketOptions(
    keepalive=True, keepcnt=3, keepidle=40, keepintvl=5, user_timeout=7000, socket_buffer=65536
)


def test_every_setting_reaches_the_socket() -> None:
    with socket.socket() as sock:
        EVERYTHING.apply(sock)
        found = {
            name: sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
            for name in ("TCP_NODELAY", "TCP_KEEPCNT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_USER_TIMEOUT")
        }
        assert found == {
            "TCP_NODELAY": 1,
            "TCP_KEEPCNT": 3,
            "TCP_KEEPIDLE": 40,
            "TCP_KEEPINTVL": 5,
            "TCP_USER_TIMEOUT": 7000,
        }
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) >= 65536


def test_zero_leaves_what_the_system_has() -> None:
    with socket.socket() as sock, socket.socket() as untouched:
        SocketOptions().apply(sock)
        for option in (socket.TCP_KEEPCNT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_USER_TIMEOUT):
            theirs = untouched.getsockopt(socket.IPPROTO_TCP, option)
            assert sock.getsockopt(socket.IPPROTO_TCP, option) == theirs


def test_without_keepalive_its_details_are_not_set() -> None:
    assert SocketOptions(keepalive=False, keepcnt=3, keepidle=40).choices(tcp=True) == (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    )


@pytest.mark.parametrize("buffer", [0, 65536])
def test_unix_sockets_have_only_a_buffer(buffer: int) -> None:
    choices = SocketOptions(socket_buffer=buffer, keepcnt=3, user_timeout=7000).choices(tcp=False)
    assert [option for _, option, _ in choices] == ([socket.SO_SNDBUF, socket.SO_RCVBUF] if buffer else [])
    with socket.socket(socket.AF_UNIX) as sock:
        SocketOptions(socket_buffer=buffer).apply(sock)
