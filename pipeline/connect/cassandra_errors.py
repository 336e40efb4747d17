"""What Cassandra's driver raises, in words for whoever has to mend it."""

from __future__ import annotations

import re
import ssl

from cassandra import (
    AuthenticationFailed,
    OperationTimedOut,
    Unavailable,
    UnresolvableContactPoints,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ProtocolError


def said(error: BaseException) -> str:
    """What went wrong, as the server has it, without the driver's words around it."""
    if isinstance(error, OperationTimedOut):
        return "no answer in time"
    if isinstance(error, NoHostAvailable):
        reasons = {said(each) for each in _reasons(error) if each is not error}
        return f"no node answers ({'; '.join(sorted(reasons)) or 'none is known to be up'})"
    found = re.search(r'message="(.*)"|Last error: (.*)', str(error), re.DOTALL)
    text = (found[1] or found[2]) if found else (str(error) or type(error).__name__)
    return text.partition("\n")[0]


def _reasons(error: BaseException) -> list[BaseException]:
    """What each node was asked in vain for; the error itself where it names none."""
    found = getattr(error, "errors", None)
    return list(found.values()) if isinstance(found, dict) and found else [error]


def why_silent(error: BaseException) -> str:
    """Why no node can be talked to, and the fix."""
    every = _reasons(error)
    first = every[0]
    if isinstance(error, UnresolvableContactPoints):
        return "the host's name is not known; check the address"
    if any(isinstance(each, AuthenticationFailed) for each in every):
        refused = next(each for each in every if isinstance(each, AuthenticationFailed))
        return (
            f"the login is refused ({said(refused)}); check CASSANDRA_USERNAME and "
            "CASSANDRA_PASSWORD"
        )
    # The driver keeps an error's text, and not always its kind.
    if isinstance(first, ssl.SSLError) or "[SSL" in str(first):
        return (
            f"TLS fails ({said(first)}); check CASSANDRA_SSL_CAFILE, that the certificate is for "
            "this host's name, and that the cluster speaks TLS at this port"
        )
    if isinstance(first, ProtocolError):
        return f"what answers is no Cassandra ({said(first)}); check host and port"
    if isinstance(first, Unavailable):
        return (
            f"too few nodes are up ({said(first)}); start them, or give another consistency=LEVEL"
        )
    return (
        f"no node answers ({said(first)}); check the address, that the node is up, and whether it "
        "asks for TLS (CASSANDRA_SSL_CAFILE)"
    )
