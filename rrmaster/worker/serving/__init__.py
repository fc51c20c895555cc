"""How a worker serves connections, on each runtime."""
