@cython.final
cdef class Client(Conn):
    cdef Server link
    # The server it had last, by its id.
    cdef int64_t home
    cdef int64_t query_start
    cdef int64_t xact_start
    cdef int64_t wait_start
    cdef readonly uint64_t key
    cdef uint32_t slot
    cdef size_t stored
    cdef public bint notified
    cdef public bint quiet
    cdef bint held
    # Its last Parse without a name: its number, 0 where there is no such statement any more; the rest of the message, if it
    # is kept; where that is read, not kept yet; how it was described.
    cdef int64_t unnamed
    cdef uint8_t *kept
    cdef size_t kept_len
    cdef size_t kept_cap
    cdef uint8_t *loose
    cdef size_t loose_len
    cdef Statement shown
    cdef object unnamed_touch
    # Names whose Parse no server has seen, since it has that statement, and that were not used since.
    cdef set unproven
    # What it listens to on a listening server, and what waits for it.
    cdef Hub hub
    cdef set channels
    cdef list inbox
    cdef size_t inbox_bytes
    # What its server has for it of channels that go over, which comes behind what its other channels have said, and behind
    # how much of the inbox (-1: it is not known yet).
    cdef list early
    cdef ssize_t early_at
    # What its startup packet asked for, as `params` and `session`; the Touch of its last Parse.
    cdef tuple base_params
    cdef tuple base
    cdef object judgement
    # The automata over the text under way, kinds of state that were told of, and statements refused by what they make.
    cdef uint8_t first_word
    cdef uint8_t anywhere
    cdef uint8_t quoting
    cdef uint16_t named
    cdef uint8_t hits
    cdef bint reading
    cdef bint named_late
    cdef int told_kinds
    cdef dict refusals
    cdef bint ask(self, uint8_t t) except -1
    cdef bint refuses(self, Out *out, uint8_t *b, size_t *run, size_t pos, uint8_t t, size_t l, size_t have, ssize_t name_end) except -1
    cdef bytes text_in(self, uint8_t t, uint8_t *p, size_t l, size_t name_end)
    cdef bint is_judged(self, uint8_t t, ssize_t name_end) except -1
    cdef bint binds_late(self, ssize_t name_end) except -1
    cdef object touch_of_unnamed(self)
    cdef object touch_of(self, bytes name)
    cdef int note(self, Server s, uint8_t t) except -1
    cdef int refuse_unknown(self, uint8_t t) except -1
    cdef int parse_twice(self, Out *out, Server s, uint8_t *p, size_t l, size_t name_end, Statement stmt) except -1
    cdef uint8_t make_sure(self, Out *out, Server s, Statement stmt) except 255
    cdef int in_doubt(self, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except -1
    cdef bint will_be_told(self, Server s) except -1
    cdef bytes name_in(self, uint8_t t, uint8_t *p, size_t l, size_t name_end)
    cdef int submit(self, Out *out, uint8_t *b, size_t start, size_t end) except -1
    cdef ssize_t statement_name(self, uint8_t t, uint8_t *p, size_t l, size_t avail) except -9
    cdef size_t rename(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0
    cdef int parse(self, Out *out, Server s, uint8_t *p, size_t l, size_t name_end) except -1
    cdef size_t use_statement(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0
    cdef int close_statement(self, Out *out, Server s, uint8_t *p, size_t name_end) except -1
    cdef Statement renew(self, bytes name, Statement stmt)
    cdef int remember(self, bytes name, Statement stmt) except -1
    cdef int forget_statement(self, Statement stmt, bytes name) except -1
    cdef int remember_only(self, dict names) except -1
    cdef bint overfull(self, size_t l) noexcept
    cdef int hung_up(self) except -1
    cdef bint half_sent(self) noexcept
    cdef int resume(self) except -1
    cdef int go_on(self) except -1
    cdef int submit_instead(self, uint8_t t, bytes message, ssize_t name_end) except -1
    cdef size_t pass_piece(self, size_t pos, size_t n) noexcept
    cdef size_t pass_rest(self, Out *out, uint8_t *b, size_t *run, size_t pos, size_t n) except? 0
    cdef ssize_t stop(self, Out *out, uint8_t *b, size_t run, size_t pos, size_t n, str reason) except -1
    cdef str name_fault(self, uint8_t t, uint8_t *p, size_t l, size_t have, ssize_t found)
    cdef bint waits_on(self, Out *out, uint8_t *b, size_t *run, size_t pos, int doubt) except -1
    cdef bint waits(self, Out *out, uint8_t *b, size_t *run, size_t pos, uint8_t t, size_t l, size_t have, size_t name_end) except -1
    cdef size_t put_renamed(self, Out *out, uint8_t t, uint8_t *p, size_t l, size_t at, size_t name_end, bytes name) except? 0
