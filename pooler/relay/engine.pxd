# The shapes of the relay: who holds what. The behaviour is in engine.pyx and the .pxi files it includes.
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data


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


cdef enum:
    # How a server is read; see Server.set_manner.
    PROMPT = 0
    LAZY = 1
    PULLED = 2


cdef struct Owed:
    # One answer that a server still owes, in order. kind: P(arse) C(lose) S(ync) Q(uery, function call), or c: the end
    # of a COPY that the client sent ahead of the CopyInResponse.
    uint8_t kind
    uint8_t act
    PyObject *stmt
    PyObject *name


cdef struct Out:
    # What one turn has to write to one peer: pieces of the read buffer, and rewritten headers in `scratch`.
    iovec iov[48]
    int n
    size_t used
    uint8_t scratch[4096]


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


cdef extern from *:
    ctypedef struct ring:
        int fd


cdef enum:
    # Pieces that one turn puts off at most, and bytes of each.
    BATCH = 64
    BATCH_BYTES = 8192


cdef struct Piece:
    # What is to be sent to one connection at the end of the turn: `n` bytes of the batch's room.
    PyObject *conn
    size_t n


cdef class Batch:
    """What is sent during one turn of the loop, and leaves at its end."""
    cdef ring ring
    cdef uint8_t *room
    cdef Piece pieces[BATCH]
    cdef int count
    cdef bint gathers
    cdef str why_not
    cdef int begin(self) except -1
    cdef int end(self, str why) except -1
    cdef bint put_off(self, Conn c, iovec *iov, int n) except -1
    cdef int depart(self) except -1


cdef class Gauge:
    """Finds out whether a long result comes faster when it is read LAZY or PULLED."""
    cdef bint narrow
    cdef bint trying
    cdef bint settled
    cdef uint8_t manner
    cdef int left
    cdef int rest
    cdef int64_t before
    cdef int64_t since
    cdef int64_t gained
    cdef int start(self, int64_t now) noexcept
    cdef int count_from(self, int64_t now) noexcept
    cdef int change(self) noexcept
    cpdef int gain(self, ssize_t n) noexcept
    cpdef uint8_t look(self, int64_t now) noexcept


cdef class Statement:
    """A prepared statement's text and parameter types, shared by all clients and servers that use it."""
    cdef bytes body
    cdef bytes name
    cdef object __weakref__
    cdef readonly int64_t id


cdef class Held:
    """A statement on one server, and when it was last used there."""
    cdef Statement stmt
    cdef int64_t used


cdef class ConnList:
    """A queue of connections, linked through the connections themselves."""
    cdef Conn head
    cdef Conn tail
    cdef readonly int count
    cdef void append(self, Conn c)
    cdef void prepend(self, Conn c)
    cdef void remove(self, Conn c)


cdef class Conn:
    """A connection in the query phase: one socket, its unread and its unsent bytes, and its link."""
    cdef Conn prev
    cdef Conn next
    cdef ConnList home
    cdef readonly Pool pool
    cdef Relay relay
    cdef object ssl
    cdef object incoming
    cdef object outgoing
    cdef void *tls
    cdef tuple params
    cdef dict stmts
    cdef uint8_t *hold
    cdef uint8_t *obuf
    cdef size_t hold_len
    cdef size_t hold_cap
    cdef size_t ohead
    cdef size_t olen
    cdef size_t ocap
    cdef uint64_t need
    cdef ssize_t last_read
    cdef int64_t connected
    cdef int64_t requested
    cdef readonly int64_t id
    cdef readonly int fd
    cdef uint8_t state
    cdef uint8_t put_off
    cdef bint dropping
    cdef bint deaf
    cdef bint broken
    cdef bint lost
    cdef bint tls_ready
    cdef bint tls_partial
    cdef bint again
    cdef bint more
    cdef bint hup
    cdef public bint close_needed
    cdef readonly bint bound
    cdef readonly object about
    cdef ssize_t fill(self, uint8_t *buf, size_t cap) except -3
    cdef ssize_t fill_tls(self, uint8_t *buf, size_t cap) except -3
    cdef int keep(self, uint8_t *p, size_t n, size_t want) except -1
    cdef int write(self, iovec *iov, int n) except -1
    cdef int write_tls(self, iovec *iov, int n) except -1
    cdef int sent_part(self, uint8_t *p, size_t n, int sent) except -1
    cdef int give_up(self) except -1
    cdef int queue(self, uint8_t *p, size_t n) except -1
    cdef int flush(self) except -1
    cdef int on_event(self, uint32_t events) except -1
    cdef bint must_wait(self)
    cdef int go_deaf(self) except -1
    cdef int take_in(self, uint8_t *b, size_t n) except -1
    cdef int digest(self) except -1
    cdef int wake_later(self) except -1
    cdef bint encrypt(self, uint8_t *p, size_t n) except -1
    cdef int push_tls(self) except -1
    cdef int shut_tls(self) except -1
    cdef int on_read(self) except -1
    cdef bint goes_on(self) noexcept
    cdef int on_drained(self) except -1
    cdef int on_eof(self) except -1
    cdef ssize_t process(self, uint8_t *b, size_t n) except -1
    cdef size_t wanted(self, uint8_t *b, size_t n) noexcept
    cdef int listen_again(self) except -1
    cdef Conn partner(self)


cdef class Client(Conn):
    cdef Server link
    cdef int64_t query_start
    cdef int64_t xact_start
    cdef int64_t wait_start
    cdef readonly uint64_t key
    cdef uint32_t slot
    cdef size_t stored
    cdef public bint notified
    cdef public bint quiet
    cdef bint ask(self, uint8_t t) except -1
    cdef int note(self, Server s, uint8_t t) except -1
    cdef int submit(self, Out *out, uint8_t *b, size_t start, size_t end) except -1
    cdef ssize_t statement_name(self, uint8_t t, uint8_t *p, size_t l, size_t avail) except -9
    cdef size_t rename(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0
    cdef int parse(self, Out *out, Server s, uint8_t *p, size_t l, size_t name_end) except -1
    cdef size_t use_statement(self, Out *out, Server s, uint8_t t, uint8_t *p, size_t l, size_t name_end) except? 0
    cdef int close_statement(self, Out *out, Server s, uint8_t *p, size_t name_end) except -1
    cdef int remember(self, bytes name, Statement stmt) except -1
    cdef int forget_statement(self, Statement stmt, bytes name) except -1
    cdef int remember_only(self, dict names) except -1
    cdef bint overfull(self, size_t l) noexcept
    cdef int hung_up(self) except -1
    cdef bint half_sent(self) noexcept
    cdef int resume(self) except -1


cdef class Newcomer(Conn):
    """A client that has not logged in yet."""
    cdef object wake
    cdef readonly tuple remote


cdef class Server(Conn):
    cdef Client link
    cdef Owed *owed
    cdef int owed_head
    cdef int owed_len
    cdef int owed_cap
    cdef uint8_t task
    cdef uint8_t status
    cdef uint8_t parting
    cdef bint copy_in
    cdef uint8_t extended
    cdef uint8_t manner
    cdef bint wary
    cdef int64_t volume
    cdef Gauge gauge
    cdef int64_t released
    cdef readonly int cancels
    cdef readonly int pid
    cdef readonly bytes cancel_key
    cdef object task_error
    cdef int owe(self, uint8_t kind, uint8_t act, object stmt, object name) except -1
    cdef int forget_head(self) except -1
    cdef int skipped(self) except -1
    cdef int undo(self, Owed *o) except -1
    cdef bint owes_copy_end(self) noexcept
    cdef int let_go(self) except -1
    cdef int part_if_read(self) except -1
    cdef int settle_error(self) except -1
    cdef int settle_copy(self) except -1
    cdef int settle_ready(self) except -1
    cdef int settle_loss(self) except -1
    cdef int answered(self, uint8_t kind) except -1
    cdef int ready(self, uint8_t status, int64_t now) except -1
    cdef bint clean(self) noexcept
    cdef bint shared(self) noexcept
    cdef int hand_over(self, Out *out, uint8_t *b, size_t start, size_t end) except -1
    cdef int settle_deallocate(self) except -1
    cdef int parameter(self, uint8_t *b, size_t n) except -1
    cdef int command_complete(self, uint8_t *b, size_t n) except -1
    cdef ssize_t process_own(self, uint8_t *b, size_t n) except -1
    cdef int part(self) except -1
    cdef int own_error(self, uint8_t *b, size_t n) except -1
    cdef int run_task(self, uint8_t task, bytes sql) except -1
    cdef int task_done(self) except -1
    cdef int hold_statement(self, Statement stmt) except -1
    cdef int prepare(self, Out *out, Statement stmt) except -1
    cdef int evict(self, Out *out, bint largest) except -1
    cdef size_t held_bytes(self) except? 0
    cdef int doubt(self, uint8_t *b, size_t n) except -1
    cdef bint is_narrow(self) noexcept
    cdef int set_manner(self, uint8_t manner) except -1


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
    cdef public object owner
    cdef public object failing
    cdef ConnList list_of(self, uint8_t state)
    cdef int move(self, Conn c, uint8_t state) except -1
    cdef Server free_server(self)
    cdef bint take(self, Client c) except -1
    cdef int want(self) except -1
    cdef bint link(self, Client c, Server s) except -1
    cdef int unlink(self, Server s) except -1
    cdef int release(self, Server s) except -1
    cdef int make_idle(self, Server s) except -1
    cpdef bint retires(self, Server s)
    cdef int serve_waiting(self) except -1
    cdef bint align(self, Client c, Server s) except -1
    cdef int measure(self, uint64_t **hist, int64_t value) except -1


cdef class Relay:
    """The selector of the event loop, and the data path."""
    cdef int ep
    cdef Batch batch
    cdef dict keys
    cdef list graveyard
    cdef list again
    cdef list lazy
    cdef int64_t lazy_turn
    cdef list woken
    cdef public list events
    cdef object wake
    cdef object statements
    cdef int64_t next_statement
    cdef int64_t tick
    cdef readonly int64_t now
    # When epoll_wait returned last, and the thread's processor time when Python got its turn; the longest turns.
    cdef int64_t looked
    cdef int64_t computed
    cdef int64_t turn_us
    cdef int64_t turn_cpu_us
    cdef int64_t last_turn_us
    cdef int64_t last_turn_cpu_us
    cdef PyObject **slots
    cdef uint64_t *keys_of
    cdef uint32_t slot_count
    cdef uint32_t slot_cap
    cdef dict param_sets
    cdef tuple tracked
    cdef dict tracked_index
    cdef public bint suspended
    cdef public uint32_t max_packet
    cdef public size_t max_statement_bytes
    cdef public bint tls_direct
    cdef tuple intern(self, tuple params)
    cdef int lose(self, Conn c, str reason, bint tell) except -1
    cdef int lose_client(self, Client c, str reason, bint tell) except -1
    cdef int lose_server(self, Server s, str reason, bint tell) except -1
    cdef int post(self, tuple event) except -1
    cdef int end_turn(self) except -1
    cdef list forward(self, timeout)
    cdef int run_again(self) except -1
    cdef int run_lazy(self) except -1
    cdef int watch(self, Conn c, int op, uint32_t reading) except -1
    cdef bint run_woken(self) except -1
    cdef int fault(self, Conn c, object error) except -1
    cdef int take_slot(self, Client c) except -1
    cdef int free_slot(self, Client c) except -1
    cdef int take_fd(self, Conn c, Pool pool, int64_t number, int fd, tls, bytes leftover, params, about, since) except -1
    cdef int enter(self, Conn c) except -1
    cdef int retract(self, Conn c) except -1
    cdef int bind(self, Client c, Server s) except -1
    cdef int control(self, int op, int fd, int events) except -1
    cdef int dispatch(self, epoll_event *evs, int n, list ready) except -1
    cdef int ready_for_asyncio(self, int fd, uint32_t events, list ready) except -1
    cdef int ready_for_us(self, Conn c, uint32_t events) except -1
    cdef int send_off(self) except -1
