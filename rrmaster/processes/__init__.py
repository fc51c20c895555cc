"""How a worker's process begins and ends, from an interpreter of its own or from a template."""
