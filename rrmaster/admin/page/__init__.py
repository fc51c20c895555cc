"""The page for people: what it shows, its curves, and its style and script."""
