"""A master as a service: privileges, signals, PID file, systemd."""
