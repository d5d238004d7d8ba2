"""One user, one logout, three nodes: the demo behind ``revoker demo``."""
