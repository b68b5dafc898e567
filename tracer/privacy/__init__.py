"""Privacy: keys are never written, content only if it may be, and only what the rules leave of it."""
