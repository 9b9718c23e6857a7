"""Every message of `wire`: what a builder writes its reader reads, other bytes are a ProtocolError."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pooler import wire
from pooler.wire import ProtocolError

READERS: list[Callable[[bytes], Any]] = [
    wire.parse_startup,
    wire.error_fields,
    wire.read_authentication,
    wire.read_mechanisms,
    wire.read_parameter_status,
    wire.read_backend_key_data,
    wire.read_negotiate_protocol_version,
    wire.read_ready_for_query,
    wire.read_row_description,
    wire.read_data_row,
    wire.read_command_complete,
    wire.read_password,
    wire.read_sasl_initial_response,
    wire.read_query,
    wire.read_parse,
    wire.read_bind,
    wire.read_describe,
    wire.read_close,
    wire.read_execute,
]

MESSAGES: list[tuple[Callable[[bytes], Any], bytes, Any]] = [
    (wire.read_authentication, wire.authentication_ok(), (0, b"")),
    (wire.read_authentication, wire.authentication_cleartext(), (3, b"")),
    (wire.read_authentication, wire.authentication_md5(b"salt"), (5, b"salt")),
    (wire.read_authentication, wire.authentication_sasl_continue(b"r=x"), (11, b"r=x")),
    (wire.read_authentication, wire.authentication_sasl_final(b"v=x"), (12, b"v=x")),
    (wire.read_parameter_status, wire.parameter_status("TimeZone", "UTC"), ("TimeZone", "UTC")),
    (wire.read_backend_key_data, wire.backend_key_data(b"12345678"), b"12345678"),
    (wire.read_backend_key_data, wire.backend_key_data(b"p" * 260), b"p" * 260),
    (wire.read_ready_for_query, wire.ready_for_query(b"T"), b"T"),
    (wire.read_negotiate_protocol_version, wire.negotiate_protocol_version(0, ["_pq_.a"]), (0, ["_pq_.a"])),
    (wire.read_row_description, wire.row_description([("a", 23), ("é", 25)]), [("a", 23), ("é", 25)]),
    (wire.read_data_row, wire.data_row(["x", None, b"\0\1", ""]), [b"x", None, b"\0\1", b""]),
    (wire.read_command_complete, wire.command_complete("SHOW"), "SHOW"),
    (wire.read_password, wire.password_message(b"s\xffcret"), b"s\xffcret"),
    (wire.read_sasl_initial_response, wire.sasl_initial_response("M", b"n,,"), ("M", b"n,,")),
    (wire.read_query, wire.query("select 'ü'"), "select 'ü'"),
    (wire.read_parse, wire.parse("s", "select $1", [23]), wire.Parse("s", "select $1", (23,))),
    (wire.read_bind, wire.bind("p", "s", ["1", None]), wire.Bind("p", "s", (), (b"1", None), ())),
    (wire.read_describe, wire.describe(b"S", "s"), wire.Named("S", "s")),
    (wire.read_close, wire.close(b"P", ""), wire.Named("P", "")),
    (wire.read_execute, wire.execute("", 7), wire.Execute("", 7)),
]


def body(message: bytes) -> bytes:
    """The body of a whole message whose length field must be right."""
    (length,) = struct.unpack_from("!I", message, 1)
    assert length == len(message) - 1
    return message[5:]


@pytest.mark.parametrize(("read", "message", "meaning"), MESSAGES)
def test_reader_reads_what_the_builder_writes(
    read: Callable[[bytes], Any], message: bytes, meaning: Any
) -> None:
    assert read(body(message)) == meaning


@pytest.mark.parametrize(("read", "message", "meaning"), MESSAGES)
def test_a_message_cut_short_or_with_more_behind_is_never_taken_for_the_whole(
    read: Callable[[bytes], Any], message: bytes, meaning: Any
) -> None:
    whole = body(message)
    for cut in (*(whole[:end] for end in range(len(whole))), whole + b"\0"):
        try:
            other = read(cut)
        except ProtocolError:
            continue
        assert other != meaning


@pytest.mark.slow
@pytest.mark.parametrize("read", READERS)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(read: Callable[[bytes], Any], data: bytes) -> None:
    try:
        read(data)
    except ProtocolError:
        return


@given(
    read_and_message=st.sampled_from([(read, message) for read, message, _ in MESSAGES]),
    at=st.integers(0, 300),
    byte=st.integers(0, 255),
)
def test_one_wrong_byte_is_read_or_refused(
    read_and_message: tuple[Callable[[bytes], Any], bytes], at: int, byte: int
) -> None:
    read, message = read_and_message
    changed = bytearray(message[5:])
    changed[at % max(len(changed), 1) : at % max(len(changed), 1) + 1] = bytes((byte,))
    try:
        read(bytes(changed))
    except ProtocolError:
        return


@given(
    code=st.sampled_from((196608, 196610, 80877102, 80877103, 80877104, 131072)), rest=st.binary(max_size=300)
)
def test_any_startup_packet_is_read_or_refused(code: int, rest: bytes) -> None:
    try:
        wire.parse_startup(struct.pack("!I", code) + rest)
    except ProtocolError:
        return


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(st.dictionaries(NAMES, st.text(st.characters(codec="utf-8", exclude_characters="\0"))))
def test_startup_parameters_survive(params: dict[str, str]) -> None:
    packet = wire.startup_message(params, minor=2)
    options = tuple(name for name in params if name.startswith("_pq_."))
    assert wire.parse_startup(packet[4:]) == wire.Startup(2, params, options)


def test_bytes_that_are_not_utf8_survive() -> None:
    packet = wire.startup_message({"user": "x"}).replace(b"x", b"\xff")
    startup = wire.parse_startup(packet[4:])
    assert isinstance(startup, wire.Startup)
    assert wire.startup_message(startup.params) == packet


def test_requests_before_the_startup_message() -> None:
    assert wire.parse_startup(wire.ssl_request()[4:]) == wire.SSLRequest()
    assert wire.parse_startup(wire.gssenc_request()[4:]) == wire.GSSENCRequest()
    for size in (8, 12, 260):
        key = bytes(range(256))[:8] + bytes(size - 8)
        assert wire.parse_startup(wire.cancel_request(key)[4:]) == wire.CancelRequest(key)


@pytest.mark.parametrize(
    ("packet", "complaint"),
    [
        (wire.cancel_request(b"1234567")[4:], "bad cancel request"),
        (wire.cancel_request(bytes(261))[4:], "bad cancel request"),
        (struct.pack("!I", 2 << 16) + b"user\0", "old V2 protocol not supported"),
        (struct.pack("!I", 4 << 16), "bad packet header: '0000000800040000'"),
        (wire.ssl_request()[4:] + b"x", "bad packet header: '0000000904d2162f'"),
        (b"", "bad packet header: '00000004'"),
        (wire.startup_message({"user": "u"})[4:-1], wire.TERMINATOR_EXPECTED),
        (wire.startup_message({"user": "u"})[4:] + b"x", wire.TERMINATOR_EXPECTED),
        (struct.pack("!I", 3 << 16) + b"user\0u", wire.TERMINATOR_EXPECTED),
    ],
)
def test_refused_first_packets(packet: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        wire.parse_startup(packet)
    assert caught.value.message == complaint


def test_the_last_of_a_repeated_parameter_counts() -> None:
    packet = struct.pack("!I", 3 << 16) + b"user\0a\0user\0b\0\0"
    assert wire.parse_startup(packet) == wire.Startup(0, {"user": "b"})


def test_error_response_fields() -> None:
    message = wire.error_response("FATAL", "28P01", "no\0way", detail="d", hint="h")
    assert wire.error_fields(body(message)) == {
        "S": "FATAL", "V": "FATAL", "C": "28P01", "M": "noway", "D": "d", "H": "h",
    }  # fmt: skip
    assert wire.fields_response(b"E", wire.error_fields(body(message))) == message
    assert wire.notice_response("NOTICE", "00000", "x")[:1] == b"N"


def test_version_negotiation_names_the_whole_version_as_libpq_expects() -> None:
    assert body(wire.negotiate_protocol_version(0, []))[:4] == struct.pack("!I", 196608)


def test_row_description_sizes_and_formats() -> None:
    described = body(wire.row_description([("n", 23), ("q", 20)], [1]))
    assert b"n\0" + struct.pack("!IhIhih", 0, 0, 23, 4, -1, 1) in described
    assert [wire.format_at(formats, 1) for formats in ((), (1,), (1, 0))] == [0, 1, 0]


@pytest.mark.parametrize("formats", [(2,), (0, 1, 0)])
def test_bind_with_impossible_formats(formats: tuple[int, ...]) -> None:
    packed = struct.pack(f"!H{len(formats)}h", len(formats), *formats)
    with pytest.raises(ProtocolError, match="broken Bind packet"):
        wire.read_bind(b"\0\0" + packed + b"\0\1\xff\xff\xff\xff\0\0")


def test_text_that_cannot_be_encoded_does_not_raise() -> None:
    assert wire.encode("a\ud800b") == b"a?b"
