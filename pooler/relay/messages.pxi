# The types of the protocol's messages, by their names in PostgreSQL's documentation; one letter may stand for two, one
# of the frontend's and one of the backend's.

cdef enum:
    # Of the frontend.
    PARSE = 80  # P
    BIND = 66  # B
    DESCRIBE = 68  # D
    EXECUTE = 69  # E
    CLOSE = 67  # C
    FLUSH = 72  # H
    SYNC = 83  # S
    QUERY = 81  # Q
    FUNCTION_CALL = 70  # F
    COPY_FAIL = 102  # f
    TERMINATE = 88  # X
    # Of both.
    COPY_DATA = 100  # d
    COPY_DONE = 99  # c
    # Of the backend.
    PARSE_COMPLETE = 49  # 1
    BIND_COMPLETE = 50  # 2
    CLOSE_COMPLETE = 51  # 3
    PARAMETER_DESCRIPTION = 116  # t
    ROW_DESCRIPTION = 84  # T
    NO_DATA = 110  # n
    DATA_ROW = 68  # D
    COMMAND_COMPLETE = 67  # C
    EMPTY_QUERY_RESPONSE = 73  # I
    PORTAL_SUSPENDED = 115  # s
    COPY_IN_RESPONSE = 71  # G
    COPY_OUT_RESPONSE = 72  # H
    COPY_BOTH_RESPONSE = 87  # W
    FUNCTION_CALL_RESPONSE = 86  # V
    ERROR_RESPONSE = 69  # E
    NOTICE_RESPONSE = 78  # N
    NOTIFICATION_RESPONSE = 65  # A
    PARAMETER_STATUS = 83  # S
    READY_FOR_QUERY = 90  # Z
    # The transaction's state in a ReadyForQuery.
    IDLE = 73  # I
    IN_TRANSACTION = 84  # T
    IN_FAILED = 69  # E
    # What a Describe or Close names, when it is no portal.
    NAMED_STATEMENT = 83  # S

cdef enum:
    # What a linked server may say, by what is to be done with it. UNHEARD_OF: nothing that belongs behind a login.
    UNHEARD_OF = 0
    # Passed on and no more: rows, data of a COPY, notices.
    PASSED = 1
    # A step of the exchange, which the ledger follows.
    STEP = 2
    # Looked into by `Server.process` itself.
    LOOKED_INTO = 3

cdef uint8_t HEARD[256]
memset(HEARD, UNHEARD_OF, 256)
for _letters, _what in ((b"DdcNA", PASSED), (b"123tTnCIsGHWV", STEP), (b"EZS", LOOKED_INTO)):
    for _letter in _letters:
        HEARD[_letter] = _what

cdef str STATUS_BROKEN = "broken ParameterStatus packet"
cdef str NO_BLOCKS = "transaction blocks not allowed in statement pooling mode"
cdef frozenset FACTS = frozenset((b"in_hot_standby", b"server_version", b"server_encoding", b"integer_datetimes"))
# What PostgreSQL reports and no client can set.


cdef bint is_last(uint8_t *p, size_t have) noexcept:
    # Whether this ErrorResponse is the last that will come: FATAL or PANIC, in the field that is not translated.
    return memmem(p, have, <char *>b"\0VFATAL\0", 8) != NULL or memmem(p, have, <char *>b"\0VPANIC\0", 8) != NULL


cdef str error_message(bytes body):
    # 'FATAL: text (57P01)' of an ErrorResponse's fields.
    fields = {part[:1]: part[1:] for part in body.split(b"\0") if part}
    words = b"%s: %s (%s)" % (fields.get(b"S", b"ERROR"), fields.get(b"M", b""), fields.get(b"C", b"?"))
    return words.decode("utf-8", "replace")


cdef uint8_t *FLUSHING = b"H\0\0\0\x04"
cdef uint8_t *PARSED = b"1\0\0\0\x04"

cdef enum:
    # Bytes of a CommandComplete that may be looked into: the longest of PostgreSQL's tags is CREATE TEXT SEARCH CONFIGURATION.
    LONGEST_TAG = 64


cdef inline bint of_prepared(uint8_t *p, size_t l) noexcept:
    # What was made in a transaction that was prepared is there by COMMIT PREPARED.
    return l == 21 and memcmp(p + 5, <char *>b"COMMIT PREPARED", 16) == 0


cdef inline bint imports(uint8_t *p, size_t l) noexcept:
    return l > 12 and memcmp(p + 5, <char *>b"IMPORT ", 7) == 0


cdef bint redefines(uint8_t *p, size_t l) noexcept:
    # By the tag of a CommandComplete: whether texts may mean something else from now on. CALL and DO may do anything.
    if l < 8:
        return False
    if p[5] == c'C':
        return memcmp(p + 6, <char *>b"REATE ", 6) == 0 or of_prepared(p, l) if l > 12 else memcmp(p + 6, <char *>b"ALL", 4) == 0 and l == 10
    if p[5] == c'I':
        return imports(p, l)
    if p[5] == c'A':
        return l > 12 and memcmp(p + 6, <char *>b"LTER ", 5) == 0
    return p[5] == c'D' and (l == 8 and p[6] == c'O' or l > 12 and memcmp(p + 6, <char *>b"ROP ", 4) == 0)


cdef enum:
    # What the end of a command says of prepared statements. SOME_CHANGED: a PREPARE or DEALLOCATE in SQL, whose name may
    # have been one of ours.
    UNCHANGED = 0
    SOME_CHANGED = 1
    ALL_GONE = 2


cdef int said_of_statements(uint8_t *p, size_t l) noexcept:
    # By the tag of a CommandComplete, on both sides.
    if p[5] != c'D' and p[5] != c'P':
        return UNCHANGED
    if l == 17 and memcmp(p + 5, <char *>b"DISCARD ALL", 12) == 0:
        return ALL_GONE
    if l == 20 and memcmp(p + 5, <char *>b"DEALLOCATE ALL", 15) == 0:
        return ALL_GONE
    if l == 16 and memcmp(p + 5, <char *>b"DEALLOCATE", 11) == 0 or l == 13 and memcmp(p + 5, <char *>b"PREPARE", 8) == 0:
        return SOME_CHANGED
    return UNCHANGED
