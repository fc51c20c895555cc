"""The access log, as a worker writes it."""
