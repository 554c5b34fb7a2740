"""Several nodes on one database: which nodes are alive, which one leads, and the log of commits."""
