# What a task of asyncio's waits on for the bytes of one socket. Other than a Future it lets the task go on at once, in the
# callback that has seen the bytes, not by way of the loop's queue. The methods are those that a task asks of a future.
from asyncio import CancelledError


cdef class Wait:
    cdef object loop
    cdef object go_on
    cdef object context
    cdef bint asked
    cdef bint cancelled
    cdef readonly bint done
    cdef public bint _asyncio_future_blocking

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

    def end(self):
        """Let the task go on, now. Not from inside another task."""
        self.done = True
        self.context.run(self.go_on, self)

    def cancel(self, msg=None):
        if self.done:
            return False
        self.cancelled = self.done = True
        self.loop.call_soon(self.go_on, self, context=self.context)
        return True

    def result(self):
        if self.cancelled:
            raise CancelledError
