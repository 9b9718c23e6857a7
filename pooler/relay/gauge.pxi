# Which way of reading a long result is the faster one cannot be known: it takes the kernel, the machine and the rows
# that PostgreSQL makes. So it is tried.


cdef class Gauge:
    def __init__(self, int64_t now, bint narrow):
        """`now`: on the relay's clock; `narrow`: whether the socket may be pulled."""
        self.narrow = narrow
        self.start(now)

    cdef int start(self, int64_t now) noexcept:
        self.read_mode = LAZY
        self.trying = False
        self.settled = False
        self.left = 0
        self.rest = GAUGE_REST
        self.since = now
        return 0

    cdef int count_from(self, int64_t now) noexcept:
        self.since = now
        self.gained = 0
        self.settled = True
        return 0

    cdef int change(self) noexcept:
        # What the old way has left to be read is not the new one's merit, and does not count.
        self.read_mode = LAZY if self.read_mode == PULLED else PULLED
        self.settled = False
        return 0

    cpdef int gain(self, ssize_t n) noexcept:
        """So many bytes have been read."""
        self.gained += n
        return 0

    cpdef uint8_t look(self, int64_t now) noexcept:
        """How to read on. To be called once a millisecond, before what has come is read."""
        cdef int64_t rate
        if not self.settled:
            self.count_from(now)
        if now - self.since < GAUGE_US:
            return self.read_mode
        rate = self.gained * 1000 // (now - self.since)
        self.count_from(now)
        if rate < GAUGE_DRY:
            return PROMPT
        if self.trying:
            self.trying = False
            if rate > self.before:
                self.rest = GAUGE_REST
            else:
                self.change()
            self.left = self.rest
            self.rest = min(2 * self.rest, GAUGE_LONGEST_REST)
        elif self.left:
            self.left -= 1
        elif self.narrow:
            self.trying = True
            self.before = rate
            self.change()
        return self.read_mode
