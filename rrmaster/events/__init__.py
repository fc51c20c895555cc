"""What a program learns about its fleet, and how messages reach it."""
