# What the kernel and C give, as far as shapes below need it.
cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void *ptr
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data


cdef struct Out:
    # What one turn has to write to one peer: pieces of the read buffer, and rewritten headers in `scratch`.
    iovec iov[48]
    int n
    size_t used
    uint8_t scratch[4096]
