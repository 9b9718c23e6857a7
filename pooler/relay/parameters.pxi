# Tracked parameters (client_encoding, DateStyle, TimeZone, ...): a client's values follow it from server to server. A
# set of values is an interned tuple, so that "the same" is a comparison of two pointers.


cdef bytes quoted(bytes value):
    # A literal that reads the same whatever standard_conforming_strings says.
    text = value.replace(b"'", b"''")
    if b"\\" in text:
        return b" E'" + text.replace(b"\\", b"\\\\") + b"'"
    return b"'" + text + b"'"


cdef bytes alignment(Relay relay, tuple wanted, tuple there):
    # The statements that give a server with values `there` the values `wanted`; empty when nothing differs.
    sql = []
    for name, value, present in zip(relay.tracked, wanted, there):
        if value is None or value == present:
            continue
        if present is not None and name != b"application_name" and value.lower() == present.lower():
            continue
        sql.append(b"SET %s=%s;" % (name, quoted(value)))
    return b"".join(sql)
