cdef enum:
    # Free of any list: being adopted, or lost.
    NOWHERE = 0
    # Clients. ACTIVE: linked to a server, or idle with nothing to ask. WAITING: has asked, stands in the queue.
    CL_ACTIVE = 1
    CL_WAITING = 2
    # Servers. IDLE: free. USED: free for longer than server_check_delay, to be tested before use. TESTED: answering
    # the reset query or the check query. ACTIVE: linked. BEING_CANCELED: free but for a cancel request on its way.
    SV_IDLE = 3
    SV_USED = 4
    SV_TESTED = 5
    SV_ACTIVE = 6
    SV_BEING_CANCELED = 7


cdef struct Counts:
    int64_t assignments
    int64_t xacts
    int64_t queries
    int64_t received
    int64_t sent
    int64_t xact_time
    int64_t query_time
    int64_t wait_time
    int64_t client_parses
    int64_t server_parses
    int64_t binds
    int64_t logins
    int64_t hits
    int64_t misses


cdef class Pool:
    """One pool: a database and a user, its clients, its servers, its queue and its counts."""
    cdef Relay relay
    cdef readonly str database
    cdef readonly str user
    cdef readonly ConnList active_clients
    cdef readonly ConnList waiting_clients
    cdef readonly ConnList idle_servers
    cdef readonly ConnList used_servers
    cdef readonly ConnList tested_servers
    cdef readonly ConnList active_servers
    cdef readonly ConnList canceled_servers
    cdef Counts counts
    cdef uint64_t *wait_hist
    cdef uint64_t *query_hist
    cdef uint64_t *xact_hist
    cdef uint64_t *login_hist
    cdef int64_t login_time
    cdef public int mode
    cdef public int max_prepared
    cdef public bint round_robin
    cdef public bint paused
    cdef bint serving
    cdef bint yielding
    cdef public int64_t rival
    cdef public bint full
    cdef public bint fast_close
    cdef public bint reset_always
    cdef public bint refuse_simple
    cdef public bytes reset_query
    cdef public bytes check_query
    cdef public int64_t check_delay
    cdef public int64_t lifetime
    cdef public int64_t lifetime_gap
    cdef int64_t retired
    # Kinds of session state that follow or pin, and that are refused (touches.Held); whether texts are looked at at all;
    # how many servers may be pinned, below 0: all; how often what was seen.
    cdef public int kept
    cdef public int refused
    cdef public bint watches
    cdef public int max_pinned
    # Whether a listening server can be had.
    cdef public bint hears
    cdef readonly int pinned_count
    # What its clients were seen to ask for of sequences (WITHIN, BEHIND).
    cdef readonly int recalls
    cdef dict seen
    # Something has happened here that nobody has looked at yet.
    cdef bint stirred
    # The database's own code (pooler/routines.py): whether all is looked at, since it is not known; the names of what may
    # leave something behind, as Touches and as an automaton; a number for what is known; texts and what they may leave.
    cdef public bint unread
    cdef readonly object effects
    cdef Names names
    cdef int64_t known
    cdef dict judged
    # To be asked by the next server that comes free.
    cdef bytes question
    cdef public object owner
    cdef public object failing
    # What those who come in are told of the pool's servers: name -> value. None: nothing is known.
    cdef public dict told
    cpdef login_took(self, int64_t microseconds)
    cdef ConnList list_of(self, uint8_t state)
    cdef int move(self, Conn c, uint8_t state) except -1
    cdef Server free_server(self)
    cdef bint take(self, Client c) except -1
    cdef int want(self) except -1
    cdef bint link(self, Client c, Server s) except -1
    # When the log heard last why a server does not say what is left there.
    cdef int64_t look_failed
    cdef bint cares(self) noexcept
    cdef bint may_refuse(self) noexcept
    cdef int unlink(self, Server s) except -1
    cdef int release(self, Server s) except -1
    cdef int clean_up(self, Server s) except -1
    cdef int make_idle(self, Server s, bint proven) except -1
    cdef int call_up(self) except -1
    cdef int coming(self) noexcept
    cdef bint yields(self) noexcept
    cdef int serve_waiting(self) except -1
    cdef bint align(self, Client c, Server s) except -1
    cdef int measure(self, uint64_t **hist, int64_t value) except -1
