"""Which improvement to deploy, and whether any: decided from logged data alone."""

# File of a policy's artifact, and of its evaluation, that says what was chosen and why: a list, one entry a seed.
CHOICE = "choice.json"
