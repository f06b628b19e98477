"""The command ``spar``: check data, improve a policy, export it, and make projects, without a clone."""
