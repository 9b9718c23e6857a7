cdef class Doorstep
cdef class Visit


@cython.final
cdef class Place:
    cdef Facts facts
    cdef tuple counted
    cdef dict users
    cdef Pool pool
    cdef Relay relay
    cdef object credentials
    cdef str database
    cdef str user
    cdef tuple tracked
    cdef object session
    cdef bytes greeting
    cdef bytes ending
    cdef int peer
    cdef Crowd crowd
    cdef bint silent
    cdef bint holds(self) except -1
    cdef bint has_room(self, Inlet inlet) except -1
    cdef bytes new_key(self)
    cdef bytes said(self, bytes farewell, bytes key)
    cdef int admit(self, Visit visit, bytes farewell) except -1


@cython.final
cdef class Footing:
    cdef Facts facts
    cdef Counting registry
    cdef int64_t most
    cdef Crowd crowd
    cdef str name
    cdef object database
    cdef bint silent
    cdef bint finds(self) except -1
    cdef bint holds(self, Inlet inlet) except -1


cdef class Doorstep:
    cdef public object running
    cdef public Counting registry
    cdef public Crowd strangers
    cdef public object log_file
    cdef public dict known
    cdef public set tasks
    cdef public tuple choices
    cdef public int64_t longest
    cdef object config
    cdef Mould facts
    cdef Mould ends
    cdef type kind
    cdef tuple nobody
    cdef Relay relay
    cdef object loop
    cdef bint let_in(self, sock) except -1
    cdef Visit visit_of(self, Newcomer line)
    cpdef no_stranger(self, Visit visit)


cdef class Visit(LightTask):
    cdef readonly object door
    # The same, if it is one.
    cdef Doorstep step_of
    cdef readonly Inlet channel
    cdef readonly object arrival
    cdef readonly int64_t since
    cdef public object steps
    cdef public object task
    cdef public bint stranger
    cdef public bint cancels
    cdef readonly int refused
    cdef bint proved
    # Whether Python was asked for something in this step.
    cdef bint asked
    cdef public object sentence
    cdef readonly object regular
    cdef readonly object exchange
    cdef int carry_on(self) except -1
    cdef object step(self)
    cdef object greet(self)
    cdef object enter(self, Place place)
    cdef int begin(self, door, Inlet channel, arrival, int64_t since) except -1
    cdef Place place(self)
    cdef bint stands(self) except -1
    cdef int name_it(self, bint silent) except -1
    cdef bint is_refused(self, uint32_t request) except -1
    cdef object prove(self)
    cdef object say(self, bytes data, long_way)
    cdef bint something(self) except -1
    cdef int settle(self) except -1
