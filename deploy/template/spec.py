"""Writes the Flex Template's container spec: what is launched, and the parameters it takes.

`gcloud dataflow flex-template build` would leave out of the metadata whether the template streams
and which guarantees it supports, so the spec is written here:

    python deploy/template/spec.py --image=REGISTRY/IMAGE:TAG --out=gs://BUCKET/battery.json
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from google.api_core.exceptions import GoogleAPIError
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.dataflow_v1beta3 import ContainerSpec
from google.protobuf.json_format import ParseError

METADATA = Path(__file__).with_name("metadata.json")
# `latest` would let a job's workers and its next launch differ.
_PINNED = re.compile(
    r"[\w.-]+(:\d+)?(/[\w.-]+)+(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})", re.ASCII
)


def container_spec(image: str) -> str:
    """The container spec as JSON.

    Args:
        image: launcher and workers' image, with a tag other than `latest` or a digest.

    Raises:
        ValueError: the image is not pinned, or the metadata holds what Dataflow does not know.
    """
    if not _PINNED.fullmatch(image):
        raise ValueError(f"--image={image}: must be REGISTRY/…/NAME:TAG (not latest) or …@sha256:…")
    spec = {
        "image": image,
        "metadata": json.loads(METADATA.read_text(encoding="utf-8")),
        "sdkInfo": {"language": "PYTHON"},
        "defaultEnvironment": {"sdkContainerImage": image, "enableStreamingEngine": True},
    }
    text = json.dumps(spec, indent=2, ensure_ascii=False) + "\n"
    try:
        ContainerSpec.from_json(text)  # refuses unknown names and values
    except ParseError as error:
        raise ValueError(f"{METADATA.name}: {error}") from error
    return text


def write(text: str, out: str) -> None:
    """Writes the spec to a file or an object `gs://BUCKET/NAME`."""
    if not out.startswith("gs://"):
        Path(out).write_text(text, encoding="utf-8")
        return
    bucket, _, name = out.removeprefix("gs://").partition("/")
    if not bucket or not name:
        raise ValueError(f"--out={out}: must look like gs://BUCKET/NAME.json, or be a file")
    blob = storage.Client().bucket(bucket).blob(name)
    blob.upload_from_string(text, content_type="application/json")


def main() -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(description="Writes the Flex Template's container spec.")
    parser.add_argument("--image", required=True, help="launcher and workers' image, pinned")
    parser.add_argument("--out", required=True, help="file or gs://BUCKET/NAME.json to write")
    given = parser.parse_args()
    try:
        write(container_spec(given.image), given.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (OSError, GoogleAPIError, GoogleAuthError) as error:
        print(f"error: --out={given.out}: could not be written ({error})", file=sys.stderr)
        return 2
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
