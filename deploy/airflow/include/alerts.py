"""Tells people: by Slack, e-mail or Pub/Sub, whichever connections the deployment names."""

from __future__ import annotations

import html
import json
import logging
from collections.abc import Mapping
from typing import Any

from include import settings

_LOG = logging.getLogger(__name__)
_LONGEST = 1500
_PATIENCE_S = 20


def on_failure(context: Mapping[str, Any]) -> None:
    """Airflow's callback of a task that failed for good."""
    send(*failure(context))


def failure(context: Mapping[str, Any]) -> tuple[str, str]:
    """Subject and text of what is told of a failed task."""
    ti = context["ti"]
    interval = " to ".join(
        f"{context[name]:%Y-%m-%d %H:%M}"
        for name in ("data_interval_start", "data_interval_end")
        if context.get(name)
    )
    lines = [
        str(context.get("exception") or "no reason was given")[-_LONGEST:],
        f"interval {interval or 'none'} UTC, try {ti.try_number}, run {ti.run_id}",
        getattr(ti, "log_url", None) or "",
    ]
    return f"{ti.dag_id}.{ti.task_id} failed", "\n".join(line for line in lines if line)


def send(subject: str, text: str) -> list[str]:
    """Tells it over every connection of the variable `battery_alert_connections`, and the log.

    A channel that doesn't work is logged and keeps nothing from the others: an alert must not
    hide what it is about.

    Returns:
        the connections that took it.
    """
    _LOG.error("ALERT %s\n%s", subject, text)
    took = []
    for name in filter(None, settings.setting("alert_connections").replace(",", " ").split()):
        try:
            _send(name, subject, text)
        except Exception:  # noqa: BLE001 - whatever is wrong with it, the others must get it
            _LOG.exception("the alert could not be sent over the connection %s", name)
        else:
            took.append(name)
    return took


def _send(name: str, subject: str, text: str) -> None:
    from airflow.sdk import BaseHook

    connection = BaseHook.get_connection(name)
    channel = _CHANNELS.get(connection.conn_type)
    if channel is None:
        raise settings.Wrong(
            f"connection {name} is of type {connection.conn_type}; alerts go over one of "
            f"{', '.join(_CHANNELS)}"
        )
    channel(connection, subject, text)


def _slack(connection: Any, subject: str, text: str) -> None:
    """An incoming webhook: its token as the password."""
    from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook

    hook = SlackWebhookHook(slack_webhook_conn_id=connection.conn_id, timeout=_PATIENCE_S)
    hook.send(text=f"*{subject}*\n{text}")


def _email(connection: Any, subject: str, text: str) -> None:
    """A mail server; extra `to_email` has who gets it, `from_email` who sends it."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    with SmtpHook(smtp_conn_id=connection.conn_id) as hook:
        hook.send_email_smtp(
            to=connection.extra_dejson["to_email"],
            subject=subject,
            html_content=f"<pre>{html.escape(text)}</pre>",
        )


def _pubsub(connection: Any, subject: str, text: str) -> None:
    """A topic: extra `project` and `topic`; `key_path` unless default credentials serve."""
    from google.cloud import pubsub_v1

    extra = connection.extra_dejson
    key = extra.get("key_path")
    make = pubsub_v1.PublisherClient
    publisher = make.from_service_account_file(key) if key else make()
    message = json.dumps({"subject": subject, "text": text}).encode()
    topic = publisher.topic_path(extra["project"], extra["topic"])
    publisher.publish(topic, message).result(timeout=_PATIENCE_S)


_CHANNELS = {"slackwebhook": _slack, "smtp": _email, "google_cloud_platform": _pubsub}
