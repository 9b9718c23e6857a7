# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# One compiled module in several files: see __init__.py for the order of reading.
include "system.pxi"
include "conn.pxi"
include "parameters.pxi"
include "prepared.pxi"
include "client.pxi"
include "server.pxi"
include "pool.pxi"
include "newcomer.pxi"
include "wait.pxi"
include "selector.pxi"
include "takeover.pxi"
include "rows.pxi"
