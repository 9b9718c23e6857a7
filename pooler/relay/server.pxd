@cython.final
cdef class Held:
    """A statement on one server, when it was last used there, and whether it is there what it was elsewhere (HOLDS...)."""
    cdef Statement stmt
    cdef int64_t used
    cdef uint8_t state
    cdef bint counted
    # When it was parsed or described here last.
    cdef int64_t known


@cython.final
cdef class Server(Conn):
    cdef Client link
    cdef Ledger ledger
    cdef tuple told
    # What its client may have left there (Touch), whether some of that failed; rows of the answer to LOOK_TASK; what keeps
    # it with its client, and since when.
    cdef list touches
    cdef list rows
    # Statements of PREPARE that are still to be made there: (name, text); how many of those sent are; those that could not
    # be, and what was said of it.
    cdef list to_make
    cdef int made
    cdef dict unmade
    cdef bytes said
    # The first half of an answer to a Describe of ours; whether the transaction has changed what texts mean
    # to all (`redefines`), or in itself (`strays`).
    cdef bytes types
    # Which Parse has made the unnamed statement that is there (`Client.unnamed`), 0: not known; what it is (HOLDS...).
    cdef int64_t unnamed
    cdef uint8_t unnamed_state
    cdef bint redefines
    cdef bint strays
    # Whether code may have deallocated its statements, with no tag that tells so.
    cdef bint forgets_all
    cdef bint undone
    # Whether an UNLISTEN, or DISCARD ALL, was carried out among what it was touched by.
    cdef bint silenced
    cdef bint look_failed
    # Whether its transaction has made code; what it is asked in ASK_TASK.
    cdef bint defines
    cdef bytes question
    cdef readonly int pinned
    cdef readonly int64_t pinned_since
    cdef bint weighs
    # The only client whose values of sequences may be there, by its id (or NOBODYS, SEVERAL); whether they go ahead of the next
    # client; whether its transaction may have drawn a value, and asked for one.
    cdef int64_t sole
    cdef bint forgets
    cdef bint draws
    cdef bint recalls
    # Whose it has said to be what its client asks for next; whether one was set in this transaction.
    cdef uint8_t vouched
    cdef bint sets_one
    # Channels that it listens to for its client, the listening server that they go over to, and the mark in both streams.
    cdef tuple channels
    cdef Hub hub
    cdef bytes mark
    cdef bint marked
    # Where it is, for others to know it by with its `pid`; when its client got it, and which id the one before was told.
    cdef object place
    cdef int64_t taken
    cdef uint32_t last_pid
    # Whether its client may have notified; ids of those who may, as long as the listening server has not heard all.
    cdef bint notified
    cdef list epochs
    cdef uint8_t task
    cdef uint8_t status
    cdef uint8_t parting
    cdef bint said_farewell
    cdef bint asked
    cdef uint8_t read_mode
    cdef bint unsure
    # What its client has sent of a batch that means a named statement (`means`), from its beginning on, as long as it is kept;
    # where it goes on when it is run again, that it is, whether with a statement that is prepared anew, and a Sync.
    cdef uint8_t *batch
    cdef size_t batch_len
    cdef size_t batch_cap
    cdef size_t batch_start
    cdef bint means
    cdef bint keeps
    cdef bint goes_back
    cdef bint renews
    cdef bint synced
    cdef int64_t volume
    cdef Gauge gauge
    cdef int64_t released
    cdef int64_t heard_at
    cdef readonly int cancels
    cdef readonly int pid
    cdef readonly bytes cancel_key
    cdef object task_error
    cdef int let_go(self) except -1
    cdef int part_if_read(self) except -1
    cdef int urge(self) except -1
    cdef int settle_loss(self) except -1
    cdef int take_back(self) except -1
    cdef int ask_where_it_is(self) except -1
    cdef int ask_by_sync(self) except -1
    cdef int is_told_apart(self, uint8_t status) except -1
    cdef int answered(self, uint8_t t, uint8_t *p, size_t l) except -1
    cdef int erred(self, uint8_t *p, size_t l, size_t have) except -1
    cdef ssize_t no_longer_kept(self, uint8_t *b, size_t n) except -1
    cdef int leave_out(self, Out *out, uint8_t *b, size_t run, size_t pos, int act) except -1
    cdef str end_of_query(self, Out *out, uint8_t *b, size_t run, size_t pos, size_t l)
    cdef bint to_be_whole(self, uint8_t t, size_t l) noexcept
    cdef ssize_t stop(self, Out *out, uint8_t *b, size_t run, size_t pos, size_t n, str reason) except -1
    cdef bint is_about_ours(self, uint8_t *p, size_t l) noexcept
    cdef bint rewords(self, Out *out, uint8_t *b, size_t *run, size_t pos, size_t l) except -1
    cdef bint keeps_back(self, Out *out, uint8_t *b, size_t *run, size_t pos, size_t l) except -1
    cdef bint answers_look(self, uint8_t t, size_t l) noexcept
    cdef int pass_on(self, uint8_t *p, size_t l) except -1
    cdef bint in_mid_message(self) noexcept
    cdef int64_t last_sign(self) noexcept
    cdef bint silent(self) noexcept
    cdef int ready(self, uint8_t status, int64_t now) except -1
    cdef bint clean(self) noexcept
    cdef str unfit(self)
    cdef bint shared(self) noexcept
    cdef int hand_over(self, Out *out, uint8_t *b, size_t start, size_t end) except -1
    cdef int parameter(self, uint8_t *b, size_t n) except -1
    cdef ssize_t process_own(self, uint8_t *b, size_t n) except -1
    cdef int part(self) except -1
    cdef int own_error(self, uint8_t *b, size_t n) except -1
    cdef int run_task(self, uint8_t task, bytes sql) except -1
    cdef int task_done(self) except -1
    cdef bint is_narrow(self) noexcept
    cdef int set_read_mode(self, uint8_t read_mode) except -1
