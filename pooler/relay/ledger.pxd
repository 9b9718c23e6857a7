cdef struct Owed:
    # A message that a server was sent. kind: its type; act: what its answer means; skipped: by which guesses it was.
    uint8_t kind
    uint8_t act
    uint8_t skipped
    PyObject *stmt
    PyObject *name


cdef struct Guess:
    # What a server may be doing, and the place of the next message it takes.
    uint8_t mode
    int next


@cython.final
cdef class Statement:
    """A prepared statement's text and parameter types, shared by all clients and servers that use it."""
    cdef bytes body
    cdef bytes name
    # Of whom it is shared (`share_key`); what whoever prepared it has been told of it, or could have been (`described`), and
    # the body with the types of its parameters as they are then. None: not known.
    cdef tuple key
    cdef bytes told
    cdef bytes fixed
    # What its text may leave behind in a session.
    cdef object touch
    # By what was known of its database's code.
    cdef int64_t known
    # Whether it speaks of notifying.
    cdef bint notifies
    cdef object __weakref__
    cdef readonly int64_t id


@cython.final
cdef class Ledger:
    """What one server was sent and has not answered, and what it does."""
    cdef Owed *log
    cdef int head
    cdef int cap
    cdef readonly int length
    cdef readonly int count
    cdef Guess guesses[8]
    cdef bint open
    # Whether anything was bound or executed since the last Sync.
    cdef bint begun
    cdef bint urged
    cdef int runs
    cdef int changing
    cdef int early
    cdef readonly bytes fence
    cdef int syncs
    # Describes of ours under way; of the one that is being answered, the statement and its client's name.
    cdef int describing
    cdef Statement described
    cdef object described_name
    cdef list failed
    cdef list undone
    cdef bint at_rest(self) noexcept
    cdef bint is_idle(self) noexcept
    cdef bint skips(self) noexcept
    cdef bint parses_surely(self, uint8_t status) noexcept
    cdef bint may_be_asked(self) noexcept
    cdef bint may_be_synced(self) noexcept
    cdef bint may_be_over(self) noexcept
    cdef bint is_asked(self) noexcept
    cdef bint says_more(self) noexcept
    cdef bint says_more_when_urged(self) noexcept
    cdef bint goes_on(self, Guess *guess) noexcept
    cdef bint has_something(self, Guess *guess) noexcept
    cdef bint may_discard(self) noexcept
    cdef bint awaits(self, bytes name, Statement one, Statement other)
    cdef bint parses_unnamed(self, bint behind_sync) noexcept
    cdef bint hand_down(self, tuple former) except -1
    cdef int rename(self, Owed *o, object name) except -1
    cdef bint ends_copy(self) noexcept
    cdef int owing(self, int i) noexcept
    cdef bint makes_room(self, Statement stmt, bint there) except -1
    cdef bint made_room(self, PyObject *stmt, int start, int end) noexcept
    cdef Owed *at(self, int i) noexcept
    cdef bint changes(self, Owed *o) noexcept
    cdef int grow(self) except -1
    cdef int forget_head(self) noexcept
    cdef int clear(self) except -1
    cdef int sent(self, uint8_t kind, uint8_t act, object stmt, object name) except -1
    cdef int catch_up(self) except -1
    cdef int heard(self, uint8_t t) except -1
    cdef int heard_by_all(self, uint8_t t) except -1
    cdef int step(self, int g, uint8_t t) except -1
    cdef int step_over(self, int g, uint8_t t, Owed *o) except -1
    cdef int step_into(self, int g, uint8_t t, Owed *o) except -1
    cdef int pass_ends(self, int g) except -1
    cdef int fail(self, int g, Owed *o) except -1
    cdef int skip(self, int g) except -1
    cdef int copy_ended(self, int g) except -1
    cdef int copy_failed(self, int g) except -1
    cdef bint guess_as_well(self, int g, uint8_t mode) except -1
    cdef int copy_bit(self, int i, int source, int target) noexcept
    cdef int drop_guess(self, int g) noexcept
    cdef bint sift(self) noexcept
    cdef bint tells_apart(self, int g, int other) noexcept
    cdef int settle(self) except -1
    cdef int take_back(self, int n) except -1
