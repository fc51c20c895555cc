"""The idle pool: a process of its own that holds connections between two requests, and reads no byte of them."""
