"""The admin server: metrics, health and a page, in a process of its own that reads the control socket."""
