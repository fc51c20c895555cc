"""How connections are served, on each runtime."""
