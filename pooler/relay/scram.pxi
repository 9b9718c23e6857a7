# SCRAM-SHA-256 (RFC 5802, RFC 7677) for the side that asks, as PostgreSQL speaks it: the exchange only, no I/O. Where
# thousands log in at once this is a good part of the work, so OpenSSL's SHA-256 is called without anything in between,
# where it can be found; else Python's modules.
import binascii
import hashlib
import hmac
from hmac import compare_digest

cdef enum:
    NONCE_BYTES = 18
    RANDOM_BYTES = 1024

cdef uint8_t random_pool[RANDOM_BYTES]
cdef int random_left = 0

cdef enum:
    SHA_BYTES = 32
    SHA_BLOCK = 64
    # Of 8 bytes: more than OpenSSL's SHA256_CTX takes.
    SHA_WORDS = 32

cdef enum:
    # With its ending NUL; see pooler/net/scram.py.
    MECHANISM_BYTES = 14
    MD5_BYTES = 16
    # `md5` and the digest in hexadecimal digits.
    MD5_TEXT = 35
    SALT_BYTES = 4

ctypedef unsigned char *(*md5_digest)(const void *data, size_t n, unsigned char *digest) noexcept nogil
ctypedef int (*sha_begin)(void *state) noexcept nogil
ctypedef int (*sha_take)(void *state, const void *data, size_t n) noexcept nogil
ctypedef int (*sha_end)(unsigned char *digest, void *state) noexcept nogil

cdef struct Sha256:
    bint found
    sha_begin begin
    sha_take take
    sha_end end

cdef Sha256 sha
cdef md5_digest md5_at_once = NULL


cdef void find_sha256() noexcept:
    cdef void *handle = openssl_handle()
    if handle == NULL:
        return
    sha.begin = <sha_begin>dlsym(handle, "SHA256_Init")
    sha.take = <sha_take>dlsym(handle, "SHA256_Update")
    sha.end = <sha_end>dlsym(handle, "SHA256_Final")
    global md5_at_once
    md5_at_once = <md5_digest>dlsym(handle, "MD5")
    sha.found = sha.begin != NULL and sha.take != NULL and sha.end != NULL


find_sha256()


class ScramError(Exception):
    """The exchange failed. `message` says how, for our log; it holds no secret."""

    def __init__(self, message):
        super().__init__(message)
        self.message = message


class WrongPassword(ScramError):
    """The exchange is sound, the password is not."""


cdef class ScramServer:
    """The side that asks. `verifier`: salt, iterations, stored_key and server_key of who claims to have the password.
    `first` answers the client's first message, `final` its proof; then `client_key` is known. They raise ScramError."""
    cdef readonly object verifier
    cdef public bytes told
    cdef public bytes binding
    cdef public bytes nonce
    cdef readonly bytes client_key

    def __init__(self, verifier):
        self.verifier = verifier

    def first(self, bytes data):
        """server-first-message for client-first-message."""
        cdef list parts
        cdef bytes flag, bare
        cdef list fields
        if data[:8] == b"n,,n=,r=" and data.find(b",", 8) < 0:
            # As libpq and most others have it.
            self.binding = b"n,,"
            return self.challenge(data[3:], nonce_in(data[6:]))
        parts = data.split(b",", 2)
        if len(parts) != 3:
            raise ScramError("malformed client-first-message")
        flag, bare = parts[0], parts[2]
        if flag.startswith(b"p="):
            raise ScramError("client wants channel binding, which was not offered")
        if flag != b"n" and flag != b"y":
            raise ScramError("malformed client-first-message")
        if parts[1]:
            raise ScramError("client wants another authorization identity")
        self.binding = flag + b",,"
        fields = attributes(bare)
        if len(fields) < 2 or fields[0][:1] != b"n":
            raise ScramError("malformed client-first-message")
        return self.challenge(bare, nonce_in(fields[1]))

    cdef bytes challenge(self, bytes bare, bytes nonce):
        cdef bytes answer
        self.nonce = nonce + binascii.b2a_base64(random_bytes(NONCE_BYTES), newline=False)
        salt = binascii.b2a_base64(self.verifier.salt, newline=False)
        answer = b"r=%b,s=%b,i=%d" % (self.nonce, salt, self.verifier.iterations)
        self.told = bare + b"," + answer
        return answer

    def final(self, bytes data):
        """server-final-message for client-final-message; raises ScramError unless the proof holds."""
        cdef bytes spoken, mark, text, proof
        cdef list fields
        cdef Py_ssize_t n = 0 if self.nonce is None else PyBytes_GET_SIZE(self.nonce)
        if n and self.binding == b"n,," and data[:9] == b"c=biws,r=" and data[9 + n:12 + n] == b",p=":
            # As usual; whatever else it may be is read by its attributes.
            if same_bytes(<uint8_t *>PyBytes_AS_STRING(data) + 9, <uint8_t *>PyBytes_AS_STRING(self.nonce), n):
                proof = from_base64(data[12 + n:])
                if len(proof) == SHA_BYTES:
                    return self.check(self.told + b"," + data[:9 + n], proof)
        spoken, mark, text = data.rpartition(b",p=")
        fields = attributes(spoken)
        if not mark or len(fields) < 2 or fields[0][:1] != b"c":
            raise ScramError("malformed client-final-message")
        if from_base64(fields[0][2:]) != self.binding:
            raise ScramError("channel binding does not match")
        if not compare_digest(nonce_in(fields[1]), self.nonce):
            raise ScramError("nonce does not match")
        proof = from_base64(text)
        if len(proof) != SHA_BYTES:
            raise ScramError("malformed proof")
        return self.check(self.told + b"," + spoken, proof)

    cdef bytes check(self, bytes message, bytes proof):
        cdef bytes stored = self.verifier.stored_key
        cdef bytes signature = hmac_sha256(stored, message)
        cdef bytes key = either(proof, signature)
        if not compare_digest(sha256(key), stored):
            raise WrongPassword("proof does not match")
        self.client_key = key
        return b"v=" + binascii.b2a_base64(hmac_sha256(self.verifier.server_key, message), newline=False)


cdef class ScramAnswers:
    """What a client answers in an exchange by SCRAM, up to its proof. A class of Python's goes on from here: `initial(body)`
    reads a first answer that is not as usual, `failed(error)` is what is raised for a ScramError, and `finish(key, farewell)`
    is called with the ClientKey of who has proved to know the secret, and with the last message to it."""
    cdef readonly object claim
    cdef ScramServer server
    cdef bint begun
    cdef public object proof

    def __init__(self, claim, verifier):
        self.claim = claim
        self.server = ScramServer(verifier)

    def take(self, bytes body):
        """What is said to this answer; None when the claim is proved."""
        cdef bytes data
        try:
            if self.begun:
                data = self.server.final(body)
                self.finish(self.server.client_key, sasl_message(12, data))
                return None
            self.begun = True
            data = usual_initial(body)
            return sasl_message(11, self.server.first(self.initial(body) if data is None else data))
        except ScramError as error:
            raise self.failed(error) from None


cdef bytes usual_initial(bytes body):
    # The data of a SASLInitialResponse with the one mechanism that there is; None when it is not that.
    cdef Py_ssize_t n = PyBytes_GET_SIZE(body)
    cdef uint8_t *raw = <uint8_t *>PyBytes_AS_STRING(body)
    if n <= MECHANISM_BYTES + 4 or memcmp(raw, <const char *>b"SCRAM-SHA-256", MECHANISM_BYTES) != 0:
        return None
    if be32(raw + MECHANISM_BYTES) != <uint32_t>(n - MECHANISM_BYTES - 4):
        return None
    return (<char *>raw)[MECHANISM_BYTES + 4:n]


cdef bytes sasl_message(int kind, bytes data):
    # Authentication message of this kind.
    cdef uint8_t head[9]
    head[0] = c"R"
    put32(head + 1, <uint32_t>PyBytes_GET_SIZE(data) + 8)
    put32(head + 5, kind)
    return (<char *>head)[:9] + data


cdef class Md5Answer:
    """The one answer in an exchange by md5: the digest of `stored`, as PostgreSQL stores it, and of a salt of this login's own.
    `good`: whether anybody can meet it; then `proof` is what there is to show for it. A class of Python's goes on from here:
    `take_slowly(body)` reads an answer that is not as usual, `refused()` is what is raised for a wrong one."""
    cdef readonly object claim
    cdef readonly bytes salt
    cdef bytes stored
    cdef bint good
    cdef object due
    cdef public object proof

    def __init__(self, claim, bytes stored, bint good, proof):
        self.claim = claim
        self.stored = stored
        self.good = good
        self.due = proof
        self.salt = random_bytes(SALT_BYTES)

    def begin(self):
        """What is sent first."""
        cdef uint8_t message[9 + SALT_BYTES]
        message[0] = c"R"
        put32(message + 1, 8 + SALT_BYTES)
        put32(message + 5, 5)
        memcpy(message + 9, PyBytes_AS_STRING(self.salt), SALT_BYTES)
        return (<char *>message)[:9 + SALT_BYTES]

    def take(self, bytes body):
        """None: the claim is proved."""
        cdef bytes expected
        cdef uint8_t *said = <uint8_t *>PyBytes_AS_STRING(body)
        if PyBytes_GET_SIZE(body) != MD5_TEXT + 1 or memchr(said, 0, MD5_TEXT) != NULL or said[MD5_TEXT]:
            return self.take_slowly(body)
        expected = b"md5" + md5_hex(self.stored[3:] + self.salt)
        if not same_bytes(said, <uint8_t *>PyBytes_AS_STRING(expected), MD5_TEXT) or not self.good:
            raise self.refused()
        self.proof = self.due
        return None


cdef bint same_bytes(const uint8_t *one, const uint8_t *other, Py_ssize_t n) noexcept:
    # In the same time, wherever they differ.
    cdef uint8_t differing = 0
    cdef Py_ssize_t i
    for i in range(n):
        differing |= one[i] ^ other[i]
    return differing == 0


cdef bytes md5_hex(bytes data):
    cdef unsigned char digest[MD5_BYTES]
    cdef char text[2 * MD5_BYTES]
    cdef const char *digits = b"0123456789abcdef"
    cdef int i
    if md5_at_once == NULL:
        return hashlib.md5(data).hexdigest().encode()
    md5_at_once(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), digest)
    for i in range(MD5_BYTES):
        text[2 * i] = digits[digest[i] >> 4]
        text[2 * i + 1] = digits[digest[i] & 15]
    return text[:2 * MD5_BYTES]


def random_bytes(int count):
    """So many bytes (at most RANDOM_BYTES) that nobody can guess, had of the kernel for many logins at once. Each is given
    once."""
    global random_left
    cdef bytes found
    if not 0 <= count <= RANDOM_BYTES:
        raise ValueError(count)
    if count > random_left:
        found = os.urandom(RANDOM_BYTES)
        memcpy(random_pool, PyBytes_AS_STRING(found), RANDOM_BYTES)
        random_left = RANDOM_BYTES
    random_left -= count
    found = (<char *>random_pool)[random_left:random_left + count]
    memset(random_pool + random_left, 0, count)
    return found


cdef bytes either(bytes one, bytes other):
    # Exclusive or, of SHA_BYTES.
    cdef unsigned char found[SHA_BYTES]
    cdef int i
    for i in range(SHA_BYTES):
        found[i] = (<uint8_t *>PyBytes_AS_STRING(one))[i] ^ (<uint8_t *>PyBytes_AS_STRING(other))[i]
    return (<char *>found)[:SHA_BYTES]


cdef list attributes(bytes data):
    # `a=…,b=…` in order, each as it is.
    cdef list parts = data.split(b",")
    cdef bytes part
    for part in parts:
        if part[1:2] != b"=" or not part[:1].isalpha():
            raise ScramError("malformed attribute")
        if part[:1] == b"m":
            raise ScramError("unsupported mandatory extension")
    return parts


cdef bytes nonce_in(bytes attribute):
    # Printable ASCII without the comma.
    cdef Py_ssize_t i
    cdef uint8_t c
    if attribute[:2] != b"r=" or len(attribute) == 2:
        raise ScramError("malformed nonce")
    for i in range(2, len(attribute)):
        c = attribute[i]
        if c < 0x21 or c > 0x7e or c == 0x2c:
            raise ScramError("malformed nonce")
    return attribute[2:]


cdef bytes from_base64(bytes text):
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ScramError("malformed base64") from None


cdef bytes sha256(bytes data):
    cdef uint64_t state[SHA_WORDS]
    cdef unsigned char digest[SHA_BYTES]
    if not sha.found:
        return hashlib.sha256(data).digest()
    sha.begin(state)
    sha.take(state, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    sha.end(digest, state)
    return (<char *>digest)[:SHA_BYTES]


cdef bytes hmac_sha256(bytes key, bytes data):
    # RFC 2104, for a key that is no longer than a block.
    cdef uint64_t state[SHA_WORDS]
    cdef unsigned char digest[SHA_BYTES]
    cdef unsigned char pad[SHA_BLOCK]
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(key)
    cdef uint8_t *raw = <uint8_t *>PyBytes_AS_STRING(key)
    if not sha.found or n > SHA_BLOCK:
        return hmac.digest(key, data, "sha256")
    for i in range(SHA_BLOCK):
        pad[i] = (raw[i] if i < n else 0) ^ 0x36
    sha.begin(state)
    sha.take(state, pad, SHA_BLOCK)
    sha.take(state, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    sha.end(digest, state)
    for i in range(SHA_BLOCK):
        pad[i] ^= 0x36 ^ 0x5c
    sha.begin(state)
    sha.take(state, pad, SHA_BLOCK)
    sha.take(state, digest, SHA_BYTES)
    sha.end(digest, state)
    return (<char *>digest)[:SHA_BYTES]
