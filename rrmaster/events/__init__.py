"""What a program is told of its fleet, and how messages reach it."""
