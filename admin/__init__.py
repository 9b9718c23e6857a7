"""The admin database `pgbouncer`: its commands, its views, its wire session, and the interactive console."""
