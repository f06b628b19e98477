"""Pictures of policies at work: what a number says, people believe once they have seen it."""
