"""The Pub/Sub emulator for tests: Google's own, from the Cloud SDK, or one that runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
from google.cloud import pubsub_v1
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tests.services.google_account import PROJECT
from tests.services.processes import Server, Service, Unavailable, java

EXTERNAL = "PUBSUB_EMULATOR_HOST"
_JAR = "platform/pubsub-emulator/lib/*.jar"


class PubSub(Server):
    """The Pub/Sub emulator; as a context manager it is started, and gone at the end.

    It keeps everything in memory: after a stop, topics and messages are gone.

    Attributes:
        host: `host:port`, the same after a restart.
        project: the project that its topics are in.
        external: whether somebody else runs it; then `stop` leaves it as it is.
    """

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """Uses $PUBSUB_EMULATOR_HOST if that is set, unless a port is asked for.

        Args:
            folder: where its log lives.
            port: where it listens; a free one if not given.
        """
        super().__init__(port)
        named = os.environ.get(EXTERNAL) if port is None else None
        self.external = bool(named)
        self.host = named or f"127.0.0.1:{self.port}"
        self.project = PROJECT
        self._log = folder.absolute() / "pubsub.log"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead clients and Beam to it."""
        return {EXTERNAL: self.host}

    def start(self) -> None:
        """Starts it and returns when it answers.

        Raises:
            Unavailable: it can't be had here, or doesn't answer; the message says why.
        """
        if not self.external:
            super().start()
            return
        try:
            self._answers()
        except Exception as error:
            raise Unavailable(f"{EXTERNAL}={self.host}: no answer ({error})") from None

    def publisher(self, ordering: bool = False) -> pubsub_v1.PublisherClient:
        """A new publisher, whatever the environment says; `ordering` allows ordering keys."""
        return pubsub_v1.PublisherClient(
            publisher_options=pubsub_v1.types.PublisherOptions(enable_message_ordering=ordering),
            transport=PublisherGrpcTransport(channel=grpc.insecure_channel(self.host)),
        )

    def subscriber(self) -> pubsub_v1.SubscriberClient:
        """A new subscriber, whatever the environment says; the caller closes it."""
        return pubsub_v1.SubscriberClient(
            transport=SubscriberGrpcTransport(channel=grpc.insecure_channel(self.host))
        )

    def create_topic(self, name: str) -> str:
        """Creates a topic and gives its path, `projects/…/topics/name`."""
        publisher = self.publisher()
        path = publisher.topic_path(self.project, name)
        publisher.create_topic(name=path, timeout=10)
        publisher.transport.close()
        return path

    def new_topic(self, prefix: str = "readings") -> str:
        """Creates a topic with a name that no other test has, and gives its path."""
        return self.create_topic(_unique(prefix))

    def create_subscription(
        self, topic: str, name: str, *, ack_deadline: int = 10, ordering: bool = False
    ) -> str:
        """Creates a pull subscription and gives its path, `projects/…/subscriptions/name`.

        Args:
            topic: the topic's path, or its name.
            name: the subscription's name.
            ack_deadline: seconds until an unacknowledged message comes again, 10 to 600.
            ordering: whether messages with one ordering key come in the order of publishing.
        """
        if not topic.startswith("projects/"):
            topic = f"projects/{self.project}/topics/{topic}"
        with self.subscriber() as subscriber:
            path = subscriber.subscription_path(self.project, name)
            subscriber.create_subscription(
                request={
                    "name": path,
                    "topic": topic,
                    "ack_deadline_seconds": ack_deadline,
                    "enable_message_ordering": ordering,
                },
                timeout=10,
            )
        return path

    def new_subscription(
        self, topic: str, *, ack_deadline: int = 10, ordering: bool = False
    ) -> str:
        """Creates a subscription with a name that no other test has, and gives its path."""
        name = _unique("subscription")
        return self.create_subscription(topic, name, ack_deadline=ack_deadline, ordering=ordering)

    def _prepare(self) -> Service:
        argv = [java(11), "-Xmx3g", "-jar", str(emulator_jar()), "--host=127.0.0.1",
                f"--port={self.port}"]  # fmt: skip
        return Service("The Pub/Sub emulator", argv, self._log)

    def _answers(self) -> None:
        publisher = self.publisher()
        try:
            list(publisher.list_topics(project=f"projects/{self.project}", timeout=5, retry=None))
        finally:
            publisher.transport.close()


def emulator_jar() -> Path:
    """The emulator's jar.

    Raises:
        Unavailable: no Cloud SDK here has the component.
    """
    for root in _sdk_roots():
        for jar in sorted(root.glob(_JAR)):
            return jar
    raise Unavailable(
        "no Cloud SDK with the Pub/Sub emulator; install it (gcloud components install "
        f"pubsub-emulator), name the SDK in CLOUDSDK_ROOT, or set {EXTERNAL}"
    )


def _sdk_roots() -> Iterator[Path]:
    # gcloud itself takes a second to answer, so it is asked last.
    if named := os.environ.get("CLOUDSDK_ROOT"):
        yield Path(named)
    gcloud = shutil.which("gcloud")
    if gcloud:
        yield Path(gcloud).resolve().parent.parent
        yield Path(gcloud).parent.parent / "lib" / "google-cloud-sdk"
    for place in ("/usr/lib", "/usr/share", "/opt", Path.home()):
        yield Path(place) / "google-cloud-sdk"
    if gcloud:
        argv = [gcloud, "info", "--format=value(installation.sdk_root)"]
        told = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
        if told.stdout.strip():
            yield Path(told.stdout.strip())


def _unique(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"
