"""The round machine (pure) and its driver (performs what the machine instructs, over the four seams)."""
