# What a coroutine waits on for the bytes of one socket, and what carries one on without a task of asyncio's. Other than a
# Future, a Wait lets it go on at once, in the callback that has seen the bytes, not by way of the loop's queue.
from asyncio import CancelledError

cdef extern from "Python.h":
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, PyObject **result)


cdef class Wait:
    # The methods are those that a task asks of a future.
    def __init__(self, loop):
        self.loop = loop

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        if self.asked:
            self.result()
            raise StopIteration
        self.asked = True
        self._asyncio_future_blocking = True
        return self

    def get_loop(self):
        return self.loop

    def add_done_callback(self, go_on, *, context):
        """How the task is to be told."""
        self.go_on = go_on
        self.context = context

    cpdef end(self):
        """Let the task go on, now. Not from inside another task."""
        self.done = True
        if self.light is not None:
            self.light.go_on()
        else:
            self.context.run(self.go_on, self)

    def cancel(self, msg=None):
        if self.done:
            return False
        self.cancelled = self.done = True
        if self.light is not None:
            self.loop.call_soon(self.light.go_on)
        else:
            self.loop.call_soon(self.go_on, self, context=self.context)
        return True

    def result(self):
        self.close()
        if self.cancelled:
            raise CancelledError
        if self.inlet is not None and self.inlet._end is not None:
            raise self.inlet._end

    cpdef close(self):
        """Nobody awaits it any more. One that was cancelled may end only after the next has begun."""
        if self.inlet is not None and self.inlet._waiter is self:
            self.inlet._waiter = None


cdef class LightTask:
    """A coroutine carried on: what a login needs of a task, at a fraction of the price.

    Each step is taken in the callback of what was awaited: a future, or a Wait. It can be cancelled, and waited for by
    `future`. One of `tasks` as long as it waits for anything. Inside there is no current task, so whatever asks for one
    (asyncio.timeout) is awaited as a task of its own."""
    def __init__(self, coroutine, set tasks, loop):
        self.coroutine = coroutine
        self.tasks = tasks
        self.loop = loop

    cpdef go_on(self, _=None):
        """Begin, or go on: the steps up to the next thing that has to be awaited, or to the end."""
        cdef PyObject *raw = NULL
        cdef PySendResult how
        if self.ended:
            return
        self.waits_for = None
        if self.doomed:
            self.doomed = False
            try:
                self.wait(self.coroutine.throw(CancelledError()))
            except StopIteration:
                self.over()
            except BaseException as error:
                self.fail(error)
            return
        how = PyIter_Send(self.coroutine, None, &raw)
        if how == PYGEN_ERROR:
            try:
                reraise()
            except BaseException as error:
                self.fail(error)
            return
        result = <object>raw
        Py_DECREF(result)
        if how == PYGEN_RETURN:
            self.over()
        else:
            self.wait(result)

    cdef int wait(self, object awaited) except -1:
        cdef Wait wait
        if not self.begun:
            self.begun = True
            self.tasks.add(self)
        if awaited is None:
            # asyncio.sleep(0): only the others' turn.
            self.loop.call_soon(self.go_on)
            return 0
        self.waits_for = awaited
        if type(awaited) is Wait:
            wait = awaited
            wait._asyncio_future_blocking = False
            wait.light = self
        else:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self.go_on)
        return 0

    cdef int over(self) except -1:
        self.ended = True
        if self.begun:
            self.tasks.discard(self)
        if self.whose is not None and not self.whose.done():
            self.whose.set_result(None)
        return 0

    cdef int fail(self, object error) except -1:
        self.over()
        if isinstance(error, CancelledError):
            return 0
        if not isinstance(error, Exception):
            raise error
        self.loop.call_exception_handler({"message": "a login has failed", "exception": error})
        return 0

    def cancel(self, msg=None):
        """As a task's: CancelledError is raised inside, which may take it or end by it."""
        if self.ended:
            return False
        if self.waits_for is None or not self.waits_for.cancel(msg):
            self.doomed = True
        return True

    def __await__(self):
        return self.future().__await__()

    def future(self):
        """One that is done when this is."""
        if self.whose is None:
            self.whose = self.loop.create_future()
            if self.ended:
                self.whose.set_result(None)
        return self.whose


cdef int reraise() except -1:
    # What Python's C interface has left as the exception at work.
    return -1
