# What Python's ssl leaves out of a TLS context and does not tell of a session, had of OpenSSL itself through the functions
# that _ssl is linked with. A context is found by way of an SSL object made from it, see `find_ssl`; where it cannot be
# found the caller hears of it.

cdef extern from *:
    """
    #define SSL_TLSEXT_ERR_OK 0
    #define SSL_TLSEXT_ERR_ALERT_FATAL 2
    #define SSL_CTRL_GET_NEGOTIATED_GROUP 134
    #define SSL_CTRL_SET_TLSEXT_TICKET_KEYS 59
    #define TICKET_KEYS 80
    #define ALPN_NAME "\\x0apostgresql"
    """
    int SSL_TLSEXT_ERR_OK
    int SSL_TLSEXT_ERR_ALERT_FATAL
    int SSL_CTRL_GET_NEGOTIATED_GROUP
    int SSL_CTRL_SET_TLSEXT_TICKET_KEYS
    int TICKET_KEYS
    const char *ALPN_NAME

ctypedef void *(*context_of_ssl)(const void *ssl) noexcept nogil
ctypedef int (*set_suites)(void *context, const char *names) noexcept nogil
ctypedef int (*choose_protocol)(void *ssl, const uint8_t **chosen, uint8_t *size, const uint8_t *offered, unsigned int n,
                                void *about) noexcept nogil
ctypedef void (*set_choice)(void *context, choose_protocol choice, void *about) noexcept nogil
ctypedef long (*ssl_ctrl)(void *ssl, int what, long number, void *data) noexcept nogil
ctypedef const char *(*name_of_number)(int number) noexcept nogil

cdef struct ContextCalls:
    context_of_ssl context
    set_suites suites
    set_choice choice
    ssl_ctrl ctrl
    ssl_ctrl context_ctrl
    name_of_number name

cdef ContextCalls context_calls


cdef void find_context_calls() noexcept:
    cdef void *handle = openssl_handle()
    if handle == NULL:
        return
    context_calls.context = <context_of_ssl>dlsym(handle, "SSL_get_SSL_CTX")
    context_calls.suites = <set_suites>dlsym(handle, "SSL_CTX_set_ciphersuites")
    context_calls.choice = <set_choice>dlsym(handle, "SSL_CTX_set_alpn_select_cb")
    context_calls.ctrl = <ssl_ctrl>dlsym(handle, "SSL_ctrl")
    context_calls.context_ctrl = <ssl_ctrl>dlsym(handle, "SSL_CTX_ctrl")
    context_calls.name = <name_of_number>dlsym(handle, "OBJ_nid2sn")


find_context_calls()


cdef void *context_inside(context) except? NULL:
    # OpenSSL's context inside Python's; NULL when it is not certain to be that.
    cdef void *found
    if context_calls.context == NULL:
        return NULL
    incoming, outgoing = _ssl.MemoryBIO(), _ssl.MemoryBIO()
    made = context.wrap_bio(incoming, outgoing, server_side=context.protocol is PROTOCOL_TLS_SERVER)
    found = find_ssl(made._sslobj, incoming, outgoing)
    return context_calls.context(found) if found != NULL else NULL


def set_ciphersuites(context, bytes names):
    """Allow only these TLS 1.3 ciphers, separated by colons. None: it is done; otherwise why it is not."""
    cdef void *inside = context_inside(context)
    cdef int done
    if inside == NULL or context_calls.suites == NULL:
        return "this build of Python does not let its OpenSSL be reached"
    done = context_calls.suites(inside, PyBytes_AS_STRING(names))
    openssl.forget()
    return None if done else "no such cipher"


def demand_protocol(context):
    """Refuse clients that name protocols of their own (ALPN) and not PostgreSQL's; who names none is let in. False: this
    cannot be had."""
    cdef void *inside = context_inside(context)
    if inside == NULL or context_calls.choice == NULL:
        return False
    context_calls.choice(inside, choose_postgresql, NULL)
    return True


def share_tickets(context, bytes keys):
    """Let sessions be taken up again that another context of these 80 secret bytes has given a ticket for, and the other
    way round. False: this cannot be had, and each takes up its own."""
    cdef void *inside = context_inside(context)
    cdef long done
    if inside == NULL or context_calls.context_ctrl == NULL or len(keys) != TICKET_KEYS:
        return False
    done = context_calls.context_ctrl(inside, SSL_CTRL_SET_TLSEXT_TICKET_KEYS, TICKET_KEYS, PyBytes_AS_STRING(keys))
    openssl.forget()
    return done == 1


def key_exchange(made, incoming, outgoing):
    """OpenSSL's name of the curve that the keys of this SSLObject between two MemoryBIOs were exchanged on, such as
    X25519; empty where there was none, or it is not known."""
    cdef void *found = find_ssl(made._sslobj, incoming, outgoing)
    cdef const char *name
    if found == NULL or context_calls.ctrl == NULL or context_calls.name == NULL:
        return ""
    name = context_calls.name(<int>context_calls.ctrl(found, SSL_CTRL_GET_NEGOTIATED_GROUP, 0, NULL))
    openssl.forget()
    return "" if name == NULL or name == b"UNDEF" else name.decode()


cdef int choose_postgresql(void *ssl, const uint8_t **chosen, uint8_t *size, const uint8_t *offered, unsigned int n,
                           void *about) noexcept nogil:
    # What is offered is names one after the other, each behind its length; OpenSSL has seen to it that they fit in.
    cdef unsigned int at = 0
    while at < n:
        if n - at >= 11 and memcmp(offered + at, ALPN_NAME, 11) == 0:
            chosen[0] = offered + at + 1
            size[0] = 10
            return SSL_TLSEXT_ERR_OK
        at += 1 + offered[at]
    return SSL_TLSEXT_ERR_ALERT_FATAL
