"""The HTTP layer that all kinds of model share."""
