"""What is said of connections that rest between two requests: by workers, by the idle pool, and by the master."""
