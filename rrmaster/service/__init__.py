"""A master as a process of its own: privileges, signals, PID file, systemd."""
