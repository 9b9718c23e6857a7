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
    # Listening sockets that the relay looks after, by their descriptors, and (key, mask) of those that are readable.
    cdef dict porches
    cdef list knocks
    # How often a login has gone on, and Python was asked for nothing in it, or may have been.
    cdef int64_t quiet
    cdef int64_t loud
    cdef Exits exits
    cdef public list events
    cdef object wake
    # Where something has happened since it was last asked; how often anything has; and who is to hear of the next time.
    cdef list stirred
    cdef readonly int64_t happened
    cdef object rouse
    cdef bint resting
    cdef bint roused
    cdef object statements
    cdef int64_t next_statement
    # By how much it goes on, and which statement has which number where others may name ours.
    cdef int64_t statement_step
    cdef object numbered
    cdef int64_t tick
    # What is to be added to the counts of a process whose connections are revived.
    cdef int64_t shift
    cdef readonly int64_t now
    # When epoll_wait returned last, and the thread's processor time when Python got its turn; the longest turns.
    cdef int64_t looked
    cdef int64_t computed
    # The descriptor of a Newcomer that has been passed on, still with epoll: for the next one that enters; -1: none.
    cdef int watched
    cdef int64_t turn_us
    cdef int64_t turn_cpu_us
    cdef int64_t last_turn_us
    cdef int64_t last_turn_cpu_us
    cdef PyObject **slots
    cdef uint64_t *keys_of
    cdef uint32_t slot_count
    cdef uint32_t slot_cap
    cdef dict param_sets
    cdef size_t param_bytes
    cdef size_t params_in_use
    cdef tuple tracked
    cdef dict tracked_index
    cdef dict judged
    cdef public bint suspended
    cdef public uint32_t max_packet
    cdef public bint wordy
    cdef public size_t max_statement_bytes
    cdef public int64_t patience
    cdef public size_t max_notifications
    # By their marks, which another process knows them by too.
    cdef object hubs
    # (database, place) -> Hub, of those that have a connection.
    cdef dict hubs_up
    # (place, pid) -> server. And of those that are gone, the last ones: by what id clients know who had them.
    cdef dict backends
    cdef dict departed
    cdef public bint tls_direct
    cdef tuple intern(self, tuple params)
    cdef tuple settle(self, Client c, tuple told)
    cdef tuple parted(self, tuple values, tuple params, dict places)
    cdef int forget_params(self) except -1
    cdef int lose(self, Conn c, str reason, bint tell, str sqlstate=*) except -1
    cdef int lose_client(self, Client c, str reason, bint tell, str sqlstate) except -1
    cdef int lose_server(self, Server s, str reason, bint tell) except -1
    cdef int happen(self) except -1
    cdef int post(self, object event) except -1
    cdef int end_turn(self) except -1
    cdef list forward(self, timeout)
    cdef int run_again(self) except -1
    cdef int run_lazy(self) except -1
    cdef int watch(self, Conn c, int op, uint32_t reading) except -1
    cdef bint was_quiet(self, int64_t quiet, int64_t loud)
    cdef int fault(self, Socket c, object error) except -1
    cdef int take_slot(self, Client c) except -1
    cdef int free_slot(self, Client c) except -1
    cdef int take_fd(self, Conn c, Pool pool, int64_t number, int fd, tls, bytes leftover, tuple params, about, int64_t since) except -1
    cdef Client adopt(self, Pool pool, int64_t number, int fd, tls, bytes leftover, tuple params, about, bytes key,
                      int64_t since, tuple session)
    cdef int enter(self, Conn c) except -1
    cdef int retract(self, Conn c) except -1
    cdef int bind(self, Client c, Server s) except -1
    cdef int control(self, int op, int fd, int events) except -1
    cdef int dispatch(self, epoll_event *evs, int n, list ready) except -1
    cdef int ready_for_asyncio(self, int fd, uint32_t events, list ready) except -1
    cdef int ready_for_us(self, Socket c, uint32_t events) except -1
    cdef int send_off(self) except -1
