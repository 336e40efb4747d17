"""Finds out whether anybody takes jobs at --job_endpoint: Beam would wait for minutes, without a word."""

from __future__ import annotations

import socket

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions

from pipeline.errors import ConfigError

# How long a job endpoint may take to answer.
_ENDPOINT_S = 5.0


def answers(options: PipelineOptions) -> None:
    """Returns if somebody listens there, or if none is given.

    Raises:
        ConfigError: nobody does, or it is no HOST:PORT.
    """
    endpoint = options.view_as(PortableOptions).job_endpoint
    if not endpoint or endpoint == "embed":
        return
    if endpoint.partition(":")[2].startswith("/"):
        return  # gRPC's own, such as dns:///host:port or unix:/path
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(f"--job_endpoint={endpoint}: must be HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ENDPOINT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"--job_endpoint={endpoint}: nothing answers there "
            f"({getattr(error, 'strerror', None) or error}); start the job server, or correct it"
        ) from error
