@cython.final
cdef class Names:
    """Names that are looked for in texts: an automaton over classes of bytes, `width` of them; what stands in a text, as
    bits, by the place that is reached."""
    cdef uint16_t *table
    cdef uint8_t *found
    cdef uint8_t classes[256]
    cdef int width
    cdef int enter(self, bytes name, int meaning, int places) except -1
    cdef int join(self, int places) except -1
    cdef uint16_t read_on(self, uint16_t place, uint8_t *p, size_t n, uint8_t *hits) noexcept
