"""What keeps it all: the bouncer, the operator's verbs, RELOAD, the janitor, and the figures."""
