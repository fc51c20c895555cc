"""The idle pool's process, as the master keeps it."""
