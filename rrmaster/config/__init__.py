"""From a flag to a value: how options are declared, parsed, collected from their sources and checked."""
