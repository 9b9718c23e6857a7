# OpenSSL for connections that Python's ssl has shaken hands on: the same SSL object and the same two memory BIOs, called
# without Python in between, which would cost as much as the cipher on a short query. The functions are those that _ssl
# itself is linked with; where they or the SSL object cannot be found (another build of Python), Python's methods are
# called instead. The tools from `plain_from` on are all that the rest of the relay knows of it.
import _ssl

cdef extern from "dlfcn.h" nogil:
    void *dlopen(const char *path, int flags)
    void *dlsym(void *handle, const char *name)
    int RTLD_LAZY
    int RTLD_NOLOAD

cdef extern from *:
    """
    /* The heads of _ssl's objects, as they are in CPython 3.11 to 3.14. What is read through them is compared with what
       OpenSSL says before it is used, see `find_ssl`. */
    typedef struct { PyObject_HEAD PyObject *socket; void *ssl; } ssl_head;
    typedef struct { PyObject_HEAD void *bio; } bio_head;
    #if PY_VERSION_HEX >= 0x030B0000 && PY_VERSION_HEX < 0x030F0000 && !defined(Py_GIL_DISABLED)
    #define KNOWN_HEADS 1
    #else
    #define KNOWN_HEADS 0
    #endif
    #define SSL_ERROR_WANT_READ 2
    #define SSL_ERROR_ZERO_RETURN 6
    #define BIO_CTRL_PENDING 10
    """
    ctypedef struct ssl_head:
        void *ssl
    ctypedef struct bio_head:
        void *bio
    bint KNOWN_HEADS
    int SSL_ERROR_WANT_READ
    int SSL_ERROR_ZERO_RETURN
    int BIO_CTRL_PENDING

ctypedef void *(*bio_of_ssl)(const void *ssl) noexcept nogil
ctypedef int (*ssl_read)(void *ssl, void *data, int n) noexcept nogil
ctypedef int (*ssl_write)(void *ssl, const void *data, int n) noexcept nogil
ctypedef int (*ssl_why)(const void *ssl, int returned) noexcept nogil
ctypedef int (*bio_read)(void *bio, void *data, int n) noexcept nogil
ctypedef int (*bio_write)(void *bio, const void *data, int n) noexcept nogil
ctypedef long (*bio_ctrl)(void *bio, int what, long number, void *data) noexcept nogil
ctypedef void (*no_errors)() noexcept nogil

cdef struct OpenSSL:
    bint found
    bio_of_ssl rbio
    bio_of_ssl wbio
    ssl_read read
    ssl_write write
    ssl_why why
    bio_read take
    bio_write put
    bio_ctrl ctrl
    no_errors forget

cdef OpenSSL openssl


cdef void *openssl_handle() noexcept:
    # That of _ssl itself: its functions are those of the libraries it was linked with.
    path = getattr(_ssl, "__file__", None)
    if path is None:
        return dlopen(NULL, RTLD_LAZY)
    name = os.fsencode(path)
    return dlopen(PyBytes_AS_STRING(name), RTLD_LAZY | RTLD_NOLOAD)


cdef void find_openssl() noexcept:
    cdef void *handle = openssl_handle()
    if handle == NULL or not KNOWN_HEADS:
        return
    openssl.rbio = <bio_of_ssl>dlsym(handle, "SSL_get_rbio")
    openssl.wbio = <bio_of_ssl>dlsym(handle, "SSL_get_wbio")
    openssl.read = <ssl_read>dlsym(handle, "SSL_read")
    openssl.write = <ssl_write>dlsym(handle, "SSL_write")
    openssl.why = <ssl_why>dlsym(handle, "SSL_get_error")
    openssl.take = <bio_read>dlsym(handle, "BIO_read")
    openssl.put = <bio_write>dlsym(handle, "BIO_write")
    openssl.ctrl = <bio_ctrl>dlsym(handle, "BIO_ctrl")
    openssl.forget = <no_errors>dlsym(handle, "ERR_clear_error")
    openssl.found = (openssl.rbio != NULL and openssl.wbio != NULL and openssl.read != NULL and openssl.write != NULL
                     and openssl.why != NULL and openssl.take != NULL and openssl.put != NULL and openssl.ctrl != NULL
                     and openssl.forget != NULL)


find_openssl()


cdef void *find_ssl(ssl, incoming, outgoing) noexcept:
    # OpenSSL's object inside Python's; NULL when it is not certain to be that: its BIOs must be those of the two
    # MemoryBIOs that it was made with.
    cdef void *found
    if not openssl.found or type(ssl) is not _ssl._SSLSocket:
        return NULL
    if type(incoming) is not _ssl.MemoryBIO or type(outgoing) is not _ssl.MemoryBIO:
        return NULL
    found = (<ssl_head *><void *>ssl).ssl
    if found == NULL or openssl.rbio(found) != (<bio_head *><void *>incoming).bio:
        return NULL
    if openssl.wbio(found) != (<bio_head *><void *>outgoing).bio:
        return NULL
    return found


cdef ssize_t plain_from(Conn c, uint8_t *p, size_t n) except -3:
    # Up to `n` plain bytes of one record; 0 at the end of the stream, -1 when more ciphertext is needed, -2 on an error.
    cdef int got
    if c.tls == NULL:
        return plain_by_python(c, p, n)
    openssl.forget()
    got = openssl.read(c.tls, p, <int>n)
    if got > 0:
        return got
    got = openssl.why(c.tls, got)
    openssl.forget()
    return -1 if got == SSL_ERROR_WANT_READ else 0 if got == SSL_ERROR_ZERO_RETURN else -2


cdef ssize_t plain_by_python(Conn c, uint8_t *p, size_t n) except -3:
    try:
        return c.ssl.read(n, PyMemoryView_FromMemory(<char *>p, n, PyBUF_WRITE))
    except SSLWantReadError:
        return -1
    except (SSLZeroReturnError, SSLEOFError):
        return 0
    except (SSLError, OSError):
        return -2


cdef bint plain_to(Conn c, uint8_t *p, size_t n) except -1:
    # Encrypt `n` bytes; False on an error. The memory BIO takes whatever comes of it.
    if c.tls == NULL:
        try:
            c.ssl.write(PyMemoryView_FromMemory(<char *>p, n, PyBUF_READ))
        except (SSLError, OSError):
            return False
        return True
    openssl.forget()
    if openssl.write(c.tls, p, <int>n) == <int>n:
        return True
    openssl.forget()
    return False


cdef bint cipher_to(Conn c, uint8_t *p, size_t n) except -1:
    # Give OpenSSL what came from the socket.
    if c.tls == NULL:
        c.incoming.write(PyMemoryView_FromMemory(<char *>p, n, PyBUF_READ))
    elif openssl.put(openssl.rbio(c.tls), p, <int>n) != <int>n:
        raise MemoryError
    return True


cdef size_t cipher_left(Conn c) except? 1:
    # How much of that it has not looked at yet.
    if c.tls == NULL:
        return c.incoming.pending
    return openssl.ctrl(openssl.rbio(c.tls), BIO_CTRL_PENDING, 0, NULL)


cdef ssize_t cipher_from(Conn c, uint8_t *p, size_t n) except -1:
    # Up to `n` bytes for the socket; 0 when there are none.
    cdef int got
    cdef bytes data
    if c.tls == NULL:
        data = c.outgoing.read(n)
        memcpy(p, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        return PyBytes_GET_SIZE(data)
    got = openssl.take(openssl.wbio(c.tls), p, <int>n)
    return got if got > 0 else 0
