"""Who waits while no worker is there."""

from __future__ import annotations

import os
import socket

from pooler.workers.lobby import NOBODY_SERVES, Lobby


def test_they_are_handed_on_in_their_order_and_told_when_they_have_waited_for_long() -> None:
    lobby, pairs, handed = Lobby(), [socket.socketpair() for _ in range(3)], []
    before = len(os.listdir("/proc/self/fd"))
    for number, (_, theirs) in enumerate(pairs):
        lobby.come(number, theirs.fileno(), float(number))
        theirs.close()
    for sent_away in (0.0, 2.0):
        lobby.send_away(sent_away)
        if not sent_away:
            lobby.hand_on(lambda port, descriptor: handed.append((port, os.fstat(descriptor).st_ino > 0)))
    assert handed == [(0, True)]
    assert len(lobby) == 1
    for number, told in enumerate((False, True)):
        ours = pairs[number][0]
        assert (NOBODY_SERVES.encode() in ours.recv(200)) is told
    lobby.send_away(9.0)
    for ours, _ in pairs:
        ours.close()
    assert len(os.listdir("/proc/self/fd")) == before - 6
