"""What is shown live in the terminal: `top`, and `status --watch`."""
