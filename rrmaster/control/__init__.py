"""The operator's socket: the server in the master, and the client in the verbs."""
