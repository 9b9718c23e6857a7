# The shapes of the relay: who holds what. For each concern a .pxd file, and the behaviour in the .pxi file of that name.
cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from posix.uio cimport iovec

cdef class Client
cdef class Conn
cdef class ConnList
cdef class Hub
cdef class Names
cdef class Pool
cdef class Relay
cdef class Server

include "system.pxd"
include "ledger.pxd"
include "batch.pxd"
include "gauge.pxd"
include "conn.pxd"
include "client.pxd"
include "server.pxd"
include "newcomer.pxd"
include "wait.pxd"
include "inlet.pxd"
include "counted.pxd"
include "visit.pxd"
include "porch.pxd"
include "names.pxd"
include "pool.pxd"
include "hub.pxd"
include "selector.pxd"
