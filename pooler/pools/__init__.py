"""Who is there: databases, users, pools and their connections, and whom a pool may open."""
