cdef class Inlet
cdef class LightTask


cdef class Wait:
    cdef object loop
    cdef object go_on
    cdef object context
    cdef LightTask light
    cdef Inlet inlet
    cdef bint asked
    cdef bint cancelled
    cdef readonly bint done
    cdef public bint _asyncio_future_blocking
    cpdef end(self)
    cpdef close(self)


cdef class LightTask:
    cdef object coroutine
    cdef set tasks
    cdef object loop
    cdef object waits_for
    cdef object whose
    cdef bint begun
    cdef bint doomed
    cdef readonly bint ended
    cpdef go_on(self, _=*)
    cdef int wait(self, object awaited) except -1
    cdef int over(self) except -1
    cdef int fail(self, object error) except -1
