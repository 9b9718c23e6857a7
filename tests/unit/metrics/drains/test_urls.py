"""Drains over the network against receivers that answer, refuse, stall, hang up and lie."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from metrics.drains import delivery, logplex, syslog
from metrics.drains.urls import open_sink
from metrics.heroku import LogLine
from tests.fixtures import receivers
from tests.fixtures.authority import Authority
from tests.fixtures.figures import soon
from tests.fixtures.waiting import free_port

Scene = Callable[[], Awaitable[None]]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pauses that are short enough for a test; the number of attempts stays."""
    monkeypatch.setattr(logplex, "RETRY_PAUSE", 0.001)
    monkeypatch.setattr(syslog, "FIRST_PAUSE", 0.001)
    delivery.verified.cache_clear()
    yield
    delivery.verified.cache_clear()


def play(scene: Scene) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await scene()

    asyncio.run(bounded())


def line(text: str, when: float = 1795333560.0) -> LogLine:
    return LogLine(when, text, addon="app")


def test_a_frame_is_logplexs_to_the_letter() -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            sink = open_sink(f"http://me:s%40crt@127.0.0.1:{there.port}/in?x=1")
            sink.emit([line("a=1"), line("b=2")])
            await soon(lambda: sink.stats().delivered == 2, "both lines")
            await sink.close()
        [post] = there.posts
        assert post.path == "/in?x=1"
        assert post.messages == [
            "<134>1 2026-11-22T07:46:00.000000+00:00 host app heroku-pgbouncer - a=1\n",
            "<134>1 2026-11-22T07:46:00.000000+00:00 host app heroku-pgbouncer - b=2\n",
        ]
        headers = post.headers
        assert headers["content-type"] == "application/logplex-1"
        assert headers["logplex-msg-count"] == "2"
        assert re.fullmatch(r"[0-9a-f]{32}", headers["logplex-frame-id"])
        assert re.fullmatch(r"d\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", headers["logplex-drain-token"])
        assert headers["user-agent"].startswith("Logplex/")
        assert headers["authorization"] == "Basic bWU6c0BjcnQ="

    play(scene)


def test_the_connection_is_kept_and_replaced_when_the_other_side_closed_it() -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            for number, reply in enumerate((receivers.OK, receivers.answer("204 No Content", close=True)), 1):
                there.answers.append(reply)
                sink.emit([line(str(number))])
                await soon(lambda: sink.stats().delivered == number, "delivery")  # noqa: B023
            assert there.connections == 1
            sink.emit([line("3")])
            await soon(lambda: sink.stats().delivered == 3, "delivery")
            assert (there.connections, sink.stats().retries) == (2, 0)
            await sink.close()

    play(scene)


@pytest.mark.parametrize("reply", ["500 Oops", "429 Slow Down", "302 Found"])
def test_what_may_pass_is_tried_twice_more_under_the_same_frame_id(reply: str) -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            there.answers += [receivers.answer(reply)] * 2
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            sink.emit([line("a")])
            await soon(lambda: sink.stats().delivered == 1, "delivery")
            assert len({post.headers["logplex-frame-id"] for post in there.posts}) == 1
            assert (len(there.posts), sink.stats().retries, sink.stats().last_error) == (3, 2, "")
            await sink.close()

    play(scene)


@pytest.mark.parametrize(("reply", "attempts"), [("503 Never", 3), ("404 Not Found", 1), ("410 Gone", 1)])
def test_what_is_given_up_is_told_in_the_next_frame(reply: str, attempts: int) -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            there.answers += [receivers.answer(reply)] * attempts
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            sink.emit([line("a", 1.0), line("b", 2.0)])
            await soon(lambda: sink.stats().dropped == 2, "the loss")
            assert sink.stats().last_error == f"answered {reply[:3]}"
            sink.emit([line("c", 3.0)])
            await soon(lambda: sink.stats().delivered == 1, "delivery")
            assert len(there.posts) == attempts + 1
            assert there.posts[-1].headers["logplex-msg-count"] == "2"
            assert there.posts[-1].messages == [
                "<172>1 1970-01-01T00:00:03.000000+00:00 host heroku logplex - Error L10 (output buffer "
                "overflow): 2 messages dropped since 1970-01-01T00:00:01.000000+00:00.\n",
                "<134>1 1970-01-01T00:00:03.000000+00:00 host app heroku-pgbouncer - c\n",
            ]
            sink.emit([line("d")])
            await soon(lambda: sink.stats().delivered == 2, "delivery")
            assert len(there.posts[-1].messages) == 1
            await sink.close()

    play(scene)


def test_frames_hold_about_100_kb_and_the_buffer_1024_messages() -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            sink.emit([line(f"{number} " + "x" * 1000) for number in range(1500)])
            assert (sink.stats().queued, sink.stats().dropped) == (1024, 476)
            await soon(lambda: sink.stats().delivered == 1024, "delivery")
            sizes = [int(post.headers["content-length"]) for post in there.posts]
            assert max(sizes) <= 101_000
            assert len(sizes) >= 11
            assert "476 messages dropped" in there.posts[0].messages[0]
            assert " 476 xxx" in there.posts[0].messages[1]
            await sink.close()

    play(scene)


def test_a_message_of_several_lines_and_any_characters_stays_one_message() -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            sink.emit([line("a\nb\r\n<134>1 c\u2028d \udc80 ü")])
            await soon(lambda: sink.stats().delivered == 1, "delivery")
            assert there.posts[0].messages[0].endswith("- a b <134>1 c d \\udc80 ü\n")
            await sink.close()

    play(scene)


@pytest.mark.parametrize("scheme", ["http", "syslog"])
def test_nobody_there(scheme: str) -> None:
    async def scene() -> None:
        sink = open_sink(f"{scheme}://127.0.0.1:{free_port()}")
        sink.emit([line("a")])
        await soon(lambda: sink.stats().last_error, "an error")
        assert "refused" in sink.stats().last_error.lower() or "connect" in sink.stats().last_error.lower()
        await sink.close(0.05)
        assert (sink.stats().dropped, sink.stats().state) == (1, "closed")

    play(scene)


@pytest.mark.parametrize("scheme", ["http", "syslog"])
def test_a_name_that_does_not_resolve(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        loop = asyncio.get_running_loop()

        async def lookup(*args: object, **more: object) -> list[object]:
            raise __import__("socket").gaierror(-2, "Name or service not known")

        monkeypatch.setattr(loop, "getaddrinfo", lookup)
        sink = open_sink(f"{scheme}://no.such.host.invalid:1234")
        sink.emit([line("a")])
        await soon(lambda: sink.stats().last_error == "Name or service not known", "the error")
        await sink.close(0.05)

    play(scene)


@pytest.mark.slow
def test_a_stalling_receiver_is_given_its_time_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logplex, "REQUEST_SECONDS", 0.05)
    monkeypatch.setattr(syslog, "REQUEST_SECONDS", 0.05)

    async def scene() -> None:
        async with receivers.mute() as there, receivers.logplex() as lively:
            stalled = open_sink(f"http://127.0.0.1:{there.port}")
            other = open_sink(f"http://127.0.0.1:{lively.port}")
            full = open_sink(f"syslog://127.0.0.1:{there.port}")
            for number in range(1200):
                stalled.emit([line(str(number))])
                other.emit([line(str(number))])
                full.emit([line("x" * 100_000)])
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await soon(lambda: stalled.stats().dropped > 0, "the stalled drain to give up a frame")
            await soon(lambda: full.stats().last_error.startswith("nothing was read"), "the full drain to notice")
            await soon(lambda: other.stats().queued == 0, "the other drain to be done")
            assert "no answer within" in stalled.stats().last_error
            assert other.stats().delivered + other.stats().dropped == 1200
            for sink in (stalled, other, full):
                await sink.close(0.05)

    play(scene)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "not an HTTP answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\nConnection: close\r\n\r\nshort", "not an HTTP answer"),
        (b"", "closed without an answer"),
    ],
)
def test_an_answer_that_is_none(reply: bytes, words: str) -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            there.answers += [reply] * 3
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            sink.emit([line("a")])
            await soon(lambda: sink.stats().dropped == 1, "the loss")
            assert words in sink.stats().last_error
            await sink.close()

    play(scene)


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    async def scene() -> None:
        async with receivers.logplex() as there:
            there.answers.append(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 200_000)
            sink = open_sink(f"http://127.0.0.1:{there.port}")
            sink.emit([line("a")])
            await soon(lambda: sink.stats().delivered == 1, "delivery")
            sink.emit([line("b")])
            await soon(lambda: sink.stats().delivered == 2, "delivery on a new connection")
            assert there.connections == 2
            await sink.close()

    play(scene)


def test_syslog_is_octet_counted_with_the_drains_token() -> None:
    async def scene() -> None:
        async with receivers.syslog() as there:
            sink = open_sink(f"syslog://127.0.0.1:{there.port}")
            sink.emit([line("a=1"), line("b=2")])
            await soon(lambda: len(there.messages) == 2, "both lines")
            head = r"<134>1 2026-11-22T07:46:00\.000000\+00:00 d\.[0-9a-f-]{36} app heroku-pgbouncer - - "
            assert re.fullmatch(head + "a=1\n", there.messages[0])
            assert re.fullmatch(head + "b=2\n", there.messages[1])
            await sink.close()

    play(scene)


def test_syslog_connects_again_and_loses_nothing_while_the_buffer_lasts() -> None:
    async def scene() -> None:
        sink = open_sink(f"syslog://127.0.0.1:{(port := free_port())}")
        sink.emit([line(str(number)) for number in range(1100)])
        await soon(lambda: sink.stats().retries > 1, "attempts")
        there = receivers.Receiver(port)
        async with receivers.syslog(at=there):
            await soon(lambda: len(there.messages) == 1025, "the lines and the notice")
            assert "76 messages dropped" in there.messages[0]
            assert " heroku logplex - - Error L10" in there.messages[0]
            assert there.messages[-1].endswith("- - 1099\n")
            await sink.close()

    play(scene)


def test_a_syslog_receiver_that_hung_up_is_noticed_before_the_next_line() -> None:
    async def scene() -> None:
        async with receivers.syslog(once=True) as there:
            sink = open_sink(f"syslog://127.0.0.1:{there.port}")
            for number in range(1, 4):
                sink.emit([line(str(number))])
                await soon(lambda: len(there.messages) == number, "the line")  # noqa: B023
                await soon(lambda: sink._watch.done(), "the end to be noticed")  # type: ignore[attr-defined]
            assert there.connections == 3
            await sink.close()

    play(scene)


@pytest.mark.parametrize("scheme", ["https", "syslog+tls"])
def test_certificates_are_verified(scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    good = authority.sign("127.0.0.1", names=("127.0.0.1",))
    wrong = authority.sign("other.example", names=("other.example",), file="wrong")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))
    open_receiver = receivers.logplex if scheme == "https" else receivers.syslog

    def context(pair) -> ssl.SSLContext:  # type: ignore[no-untyped-def]
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(pair.cert, pair.key)
        return made

    async def scene() -> None:
        async with open_receiver(context(good)) as there, open_receiver(context(wrong)) as bad:
            sink = open_sink(f"{scheme}://127.0.0.1:{there.port}")
            refused = open_sink(f"{scheme}://127.0.0.1:{bad.port}")
            sink.emit([line("a")])
            refused.emit([line("b")])
            await soon(lambda: sink.stats().delivered == 1, "delivery")
            await soon(lambda: "certificate refused" in refused.stats().last_error, "the refusal")
            assert (bad.posts, bad.messages) == ([], [])
            await sink.close()
            await refused.close(0.05)
        await soon(lambda: there.posts or there.messages, "the line")

    play(scene)
