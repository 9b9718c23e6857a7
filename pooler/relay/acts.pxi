# Words of the ledger: what a server does, and what is to be done with an answer. The rule: an act is of the message that was
# sent, and stays what it was.

cdef enum:
    # What a server does. READING: it takes the next message. SKIPPING: it has failed in the extended protocol, and
    # forgets all up to the next Sync. RUNNING: in a Query or a FunctionCall, whose ReadyForQuery is to come. COPYING and
    # RUN_COPYING: it reads the data of a COPY, of an Execute's or of a Query's.
    READING = 0
    SKIPPING = 1
    RUNNING = 2
    COPYING = 3
    RUN_COPYING = 4
    REFUTED = 5

cdef enum:
    # What is to be done with an answer. FORWARD: it is the client's. SKIP: of a message of ours. AS_PARSE: CloseComplete
    # instead of ParseComplete. FENCED: our question where it is begins to be answered. WRONG: no PostgreSQL says that.
    FORWARD = 0
    SKIP = 1
    AS_PARSE = 2
    FENCED = 3
    WRONG = 4
    # What was sent for other reasons than to be answered. EVICTED: the Close of a statement that had to make room. UNKNOWN: it
    # names one that the client does not have (any longer). TWICE: a Parse under a name that it has. STALE: it means one whose
    # result is of other types by now. FIRST: the first use of one that was taken for prepared. WATCHED: a Describe whose answer
    # we remember. UNNAMED, UNNAMED_AGAIN: the client's has ended (its name: what there was, a tuple), or one of ours is there.
    EVICTED = 5
    UNKNOWN = 6
    TWICE = 7
    STALE = 8
    UNNAMED = 9
    UNNAMED_AGAIN = 10
    WATCHED = 11
    FIRST = 12

cdef enum:
    MOST_GUESSES = 8
    # The RowDescription by which our own question is known.
    FENCE_ROW = 0


cdef Statement ANYBODYS = Statement.__new__(Statement)
# In `described`: it cannot be told which statement it is of.

cdef str LISTENING_FAILED = "channels could not be handed over"
cdef tuple TASK_FAILED = ("failure", "invalid server parameter", "reset query failed", "test query failed", "bad packet",
                           "session state is not known", "rollback failed", "discard failed", "bad packet", LISTENING_FAILED,
                           LISTENING_FAILED, LISTENING_FAILED, LISTENING_FAILED, "invalid server parameter", "session state is not known")
# By task.
