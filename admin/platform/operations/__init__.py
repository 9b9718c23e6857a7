"""What can be done to the state, in rules: used alike by the HTTP API and the command line.

Each function takes a Store (one transaction) or, where it must ask a database in between, a State; and an
Actor, whose reach is checked in `access` alone. They return values of the model and raise PlatformError; they
print nothing.
"""
