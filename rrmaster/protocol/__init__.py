"""What master and worker say to each other: the only room that both processes load."""
