"""Several processes, one service: a desk that everybody sees from outside, and workers that serve its clients.

The desk binds the ports, hands each client that comes to a worker, answers for all on the console, in metrics and in
the log, carries commands and signals to all, and keeps the ledger of what the limits allow. A worker is a pooler
without ports of its own. `line` is what they talk over, `ledger` the account of rights, `roll` the call for who is
still there, `together` the sum of their figures, `desk` and `chief` the one side, `hand` the other; `succession` is how
another service takes the place of one.
"""
