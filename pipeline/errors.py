"""The errors a user is told in a line: what went wrong, and the fix."""


class ConfigError(ValueError):
    """A flag, URI or resource is wrong; raised before the first message is read."""


class SourceFailed(RuntimeError):
    """Reading a live source came to an end that waiting does not mend; the message says why."""


class WarehouseFailed(RuntimeError):
    """A warehouse can't be written, and waiting does not mend it; the message says the fix."""
