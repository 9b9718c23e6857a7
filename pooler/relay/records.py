"""Shapes of what goes into the compiled relay and comes out of it, where a name is worth more than a tuple."""

from __future__ import annotations

from typing import Any

Tls = tuple[object, object, object]
"""The TLS state of a connection: SSL object of _ssl, incoming and outgoing MemoryBIO."""
State = dict[str, Any]
"""All that a connection is besides its socket, as plain values: see takeover.pxi."""
StatementTable = dict[int, tuple[bytes, list[bytes | str | None] | None, bytes | None, bytes | None]]
"""What `statement` takes, by number: text and types, of whom it is shared, how it was described, body for others."""
