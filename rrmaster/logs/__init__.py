"""What is logged, in which form, and where it goes."""
