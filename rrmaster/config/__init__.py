"""From a flag to a value: how options are declared, parsed, found and checked."""
