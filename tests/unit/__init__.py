"""Bytes in, bytes out: no server, no child process. A socket pair is the most these tests open."""
