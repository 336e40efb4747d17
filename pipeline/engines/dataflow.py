"""What only a job on Dataflow needs: project, region, bucket and API, found out before it starts."""

from __future__ import annotations

import os

from apache_beam.options.pipeline_options import (
    GoogleCloudOptions,
    PipelineOptions,
    StandardOptions,
)
from apache_beam.runners.runner import PipelineRunner, create_runner
from google.api_core import exceptions
from google.auth import exceptions as auth_exceptions
from google.cloud import dataflow_v1beta3 as dataflow
from google.cloud.dataflow_v1beta3.services.jobs_v1_beta3.transports import (
    JobsV1Beta3RestTransport,
)

from pipeline.connect import CHECK_S, google, within
from pipeline.engines.properties import Engine, Finished, Stopped
from pipeline.engines.results import as_it_is
from pipeline.errors import ConfigError
from pipeline.stores.gcs import GcsStore, Location

ENGINE = Engine(
    name="Dataflow",
    flag="--runner=DataflowRunner",
    here=False,
    one_process=False,
    repeats_bundles=True,
    finished=Finished.DURABLE,
    stopped=Stopped.ELSEWHERE,
    keeps_state=True,
    goes_back=False,
    native_pubsub=True,
)

# `http://host:port` of what stands in for the API in tests; the flag takes Google's names only.
_STAND_IN = "DATAFLOW_EMULATOR_HOST"
# Multi-regions and what the regions in them begin with.
_WITHIN = {"US": "us-", "EU": "europe-", "ASIA": "asia-"}


def is_meant(name: str) -> bool:
    """Whether `--runner` means this engine."""
    return name.lower().endswith("dataflowrunner")


def engine(_options: PipelineOptions) -> Engine:
    """The engine as these flags have it."""
    return ENGINE


def runner(options: PipelineOptions, _live: bool) -> PipelineRunner:
    """The runner as Beam knows it by its name."""
    return create_runner(options.view_as(StandardOptions).runner)


def check(options: PipelineOptions) -> None:
    """Finds out within seconds whether Dataflow can take the job.

    Raises:
        ConfigError: project, region or bucket are missing or do not fit, or Dataflow must not be
            used; the message names the flag and the fix.
    """
    cloud = options.view_as(GoogleCloudOptions)
    if not cloud.project:
        cloud.project = os.environ.get("GOOGLE_CLOUD_PROJECT")
    for flag, example in (
        ("project", "my-project"),
        ("region", "europe-west3"),
        ("temp_location", "gs://my-bucket/tmp"),
    ):
        if not getattr(cloud, flag):
            raise ConfigError(f"--{flag}: DataflowRunner needs it; give --{flag}={example}")
    _check_package(options)
    _check_no_keys(options)
    _check_bucket(cloud.temp_location, cloud.region)
    if not cloud.template_location:
        # A template's launcher runs in Dataflow already.
        _check_service(cloud)


def only_written(options: PipelineOptions) -> str | None:
    """The template that the job is only written to; None if it is to be run."""
    return options.view_as(GoogleCloudOptions).template_location or None


def _check_package(options: PipelineOptions) -> None:
    given = options.get_all_options()
    if not any(given.get(name) for name in ("setup_file", "sdk_container_image")):
        raise ConfigError(
            "--sdk_container_image: the workers need this package; give the image that make "
            "template builds, or --setup_file=./setup.py (workers then start minutes later)"
        )


def _check_no_keys(options: PipelineOptions) -> None:
    given = options.get_all_options()
    for name in ("s3_access_key_id", "s3_secret_access_key", "s3_session_token"):
        if given.get(name):
            raise ConfigError(
                f"--{name}: would stand in the job's options on Dataflow, where others can see it; "
                "drop it; the workers need credentials of their own, or another lake and source"
            )


def drain_hint(options: PipelineOptions, job_id: str | None) -> str:
    """How a job is drained that goes on in Dataflow when this process ends."""
    cloud = options.view_as(GoogleCloudOptions)
    return (
        f"the job goes on in Dataflow; gcloud dataflow jobs drain {job_id or 'JOB_ID'} "
        f"--project={cloud.project} --region={cloud.region} ends it in order"
    )


def _check_bucket(location: str, region: str) -> None:
    scheme, _, rest = location.partition("://")
    name, _, prefix = rest.partition("/")
    if scheme != "gs" or not name:
        raise ConfigError(f"--temp_location={location}: must look like gs://BUCKET/PREFIX")
    roles = "roles/storage.objectAdmin and roles/storage.legacyBucketReader"
    store = GcsStore(location, name, prefix, "--temp_location", roles, region)
    _check_location(store.look(), location, region)


def _check_location(found: Location, location: str, region: str) -> None:
    kept_in = (found.name or region).upper()
    here = region.upper()
    spans = [each.upper() for each in found.regions]
    if here == kept_in or here in spans or region.startswith(_WITHIN.get(kept_in, "\0")):
        return
    # A dual region by one name, such as NAM4 or EUR4, holds what its continent's does.
    if len(kept_in) == 4 and kept_in[3:].isdigit():
        return
    raise ConfigError(
        f"--temp_location={location}: the bucket lies in {kept_in} and --region={region} "
        f"elsewhere, so that everything would travel; use a bucket in {region}, or another region"
    )


def _check_service(cloud: GoogleCloudOptions) -> None:
    try:
        within(CHECK_S, lambda: _first_job(cloud))
    except exceptions.Forbidden as error:
        if "SERVICE_DISABLED" in str(error) or "has not been used" in str(error):
            raise ConfigError(
                f"--project={cloud.project}: the Dataflow API is not enabled; run "
                f"gcloud services enable dataflow.googleapis.com --project={cloud.project}"
            ) from error
        raise ConfigError(
            f"--project={cloud.project}: this account may not use Dataflow there; grant it "
            f"roles/dataflow.developer ({_told(error)})"
        ) from error
    except exceptions.NotFound as error:
        raise ConfigError(
            f"--project={cloud.project}: no such project, or --region={cloud.region} is none "
            f"({_told(error)})"
        ) from error
    except auth_exceptions.GoogleAuthError as error:
        raise ConfigError(
            f"--project={cloud.project}: no usable Google credentials ({type(error).__name__}); "
            "run gcloud auth application-default login"
        ) from error
    except (exceptions.GoogleAPICallError, OSError) as error:
        raise ConfigError(
            f"--project={cloud.project}: Dataflow does not answer ({_told(error)}); check "
            "--region, --dataflow_endpoint and the network"
        ) from error


def _first_job(cloud: GoogleCloudOptions) -> None:
    endpoint = os.environ.get(_STAND_IN) or cloud.dataflow_endpoint
    scheme, _, host = endpoint.partition("://")
    credentials = None
    if scheme == "http":  # only a stand-in listens without encryption
        credentials = google.anonymous()
    transport = JobsV1Beta3RestTransport(
        host=host.rstrip("/"), url_scheme=scheme, credentials=credentials
    )
    client = dataflow.JobsV1Beta3Client(transport=transport)
    request = dataflow.ListJobsRequest(project_id=cloud.project, location=cloud.region, page_size=1)
    client.list_jobs(request, timeout=CHECK_S)


def _told(error: Exception) -> str:
    return str(getattr(error, "message", None) or error)


followed = as_it_is
