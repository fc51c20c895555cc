"""Programs that open their own listeners, in a worker and standalone."""
