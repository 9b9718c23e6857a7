"""Connections to the outside: a channel, its addresses, TLS, names, proofs. It knows no pool."""
