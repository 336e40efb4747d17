"""The error a user can mend: its message names the flag or field and the fix."""


class ConfigError(ValueError):
    """A flag, URI or resource is wrong; raised before the first message is read."""
