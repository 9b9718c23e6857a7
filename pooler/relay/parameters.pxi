# Tracked parameters (client_encoding, DateStyle, TimeZone, ...): a client's values follow it from server to server. A
# set of values is an interned tuple, so that "the same" is a comparison of two pointers.


cdef bytes quoted(bytes value):
    # A literal that reads the same whatever standard_conforming_strings says.
    text = value.replace(b"'", b"''")
    if b"\\" in text:
        return b" E'" + text.replace(b"\\", b"\\\\") + b"'"
    return b"'" + text + b"'"


cdef frozenset WORDS = frozenset((b"client_encoding", b"DateStyle", b"TimeZone", b"standard_conforming_strings",
                                 b"IntervalStyle"))
# Parameters whose values are words, the same in capitals.


cdef bytes alignment(Relay relay, tuple wanted, tuple there, tuple told):
    # The statements that give a server with values `there` the values `wanted`; empty when nothing differs. What may be a
    # list (search_path) is set by the function, which takes a value as the server has told it: SET would quote it again.
    # What the server has not `told` it has from us, for another client: who has no value of its own gets the default. By
    # whose right this is done comes with the session (`sessions.alignment`).
    sql = []
    for name, value, present, reported in zip(relay.tracked, wanted, there, told):
        if value == present or name == b"session_authorization":
            continue
        if value is None:
            if reported is None:
                sql.append(b"RESET %s;" % name)
            continue
        if name in WORDS or name == b"application_name":
            if present is not None and name in WORDS and value.lower() == present.lower():
                continue
            sql.append(b"SET %s=%s;" % (name, quoted(value)))
        else:
            sql.append(sessions.given(name, value))
    return b"".join(sql)
