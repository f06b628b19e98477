"""Pictures of policies at work, for the HTML page."""
