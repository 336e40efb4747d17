"""Finds out why no Kafka broker answers, from what listens at its address."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

# Of the time a check may take, what this takes for each of the first addresses.
PROBE_S = 1.0
MOST_PROBED = 3
CHECK_LOGIN = (
    "check KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM, and that this port "
    "wants the KAFKA_SECURITY_PROTOCOL that is set"
)


def why_silent(bootstrap: Sequence[str], protocol: str) -> str:
    """Why no broker answered, by connecting to the addresses without Kafka's protocol."""
    failures = []
    for server in bootstrap[:MOST_PROBED]:
        host, _, port = server.rpartition(":")
        place = (host.strip("[]"), int(port))
        try:
            socket.create_connection(place, PROBE_S).close()
        except OSError as error:
            failures.append(f"{server}: {error.strerror or error}")
            continue
        return f"{server} answers, but {_mismatch(protocol, _speaks_tls(place))}"
    return f"no broker answers at {'; '.join(failures)}; check the address and that it runs"


def _mismatch(protocol: str, speaks_tls: bool) -> str:
    """What keeps a broker that listens from answering, and the fix."""
    if protocol.endswith("SSL") and speaks_tls:
        return (
            "its certificate is not trusted, or it refuses ours; check KAFKA_SSL_CAFILE, "
            "KAFKA_SSL_CERTFILE and KAFKA_SSL_CHECK_HOSTNAME"
            + (f"; or it refuses the login; {CHECK_LOGIN}" if protocol == "SASL_SSL" else "")
        )
    if protocol.endswith("SSL"):
        plain = "SASL_PLAINTEXT" if protocol == "SASL_SSL" else "PLAINTEXT"
        return f"without TLS; set KAFKA_SECURITY_PROTOCOL to {plain}"
    if speaks_tls:
        return f"wants TLS; set KAFKA_SECURITY_PROTOCOL to {'SASL_SSL' if 'SASL' in protocol else 'SSL'}"
    if protocol == "SASL_PLAINTEXT":
        return f"ends the connection at login; {CHECK_LOGIN}"
    return (
        f"not to {protocol} as a Kafka broker does; check the port and KAFKA_SECURITY_PROTOCOL "
        "(SASL_PLAINTEXT or SASL_SSL where it wants a login)"
    )


def _speaks_tls(place: tuple[str, int]) -> bool:
    # Nothing is sent over this connection: it only tells what listens there.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(place, PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=place[0]),
        ):
            return True
    except ssl.SSLError as error:
        # A broker that wants a certificate of ours ends the handshake with an alert.
        return "ALERT" in (error.reason or "")
    except OSError:
        return False
