"""What `rrmaster check` tells of an application that no master serves."""
