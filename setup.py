"""Packaging of the battery streaming pipeline, and the one list of what it depends on.

Dataflow builds its workers' package from this file (``--setup_file=./setup.py``), so it stays
plain setuptools: no imports of our own, no generated parts.

The ranges here say what the code is written for; ``make lock`` compiles them into exact versions
with hashes: ``requirements.txt`` (what a worker image installs) and ``requirements-dev.txt``
(the same versions plus the development tools, what ``make install`` installs).
"""

from setuptools import find_packages, setup

INSTALL_REQUIRES = [
    # The engine. Pinned exactly: the local streaming runner leans on Beam internals, and a
    # Dataflow job must run the SDK version that its worker image holds. gcp: Dataflow, Pub/Sub,
    # gs://; aws: s3:// paths.
    "apache-beam[aws,gcp]==2.77.0",
    # Sources and sinks.
    "google-cloud-pubsub>=2.44,<3",  # the Pub/Sub source, publisher and dead-letter topic
    "google-cloud-bigquery>=3.40,<4",  # the BigQuery sink: tables, load jobs, queries
    "google-cloud-bigquery-storage>=2.30,<3",  # its Storage Write API, which takes Arrow as it is
    "google-cloud-storage>=3.1,<4",  # gs:// lakes: creates objects only where there is none
    "google-cloud-dataflow-client>=0.10,<1",  # asks Dataflow before a launch; checks the template
    "google-cloud-secret-manager>=2.20,<3",  # Kafka's login where workers have no environment
    # Kafka in pure Python, no broker-side or native library to install. crc32c makes consuming
    # nine times faster; lz4, snappy and zstd read topics compressed that way. 3.x is a new major
    # whose behaviour the source relies on.
    "kafka-python[crc32c,lz4,snappy,zstd]>=3.0.12,<3.1",
    "confluent-kafka>=2.16,<3",  # librdkafka, which fetches a topic's messages several times faster
    "boto3>=1.40,<2",  # the client behind s3:// lakes; Beam's aws extra leaves its age open
    "duckdb>=2.0,<3",  # the local warehouse, and MotherDuck (md:)
    "cassandra-driver>=3.30,<4",  # the Cassandra sink: the project's own driver, compiled wheels
    "python-calamine>=0.9,<1",  # reads Excel workbooks, an order faster than openpyxl
    # Batches and their kernels.
    "numpy>=2.2,<2.5",  # vectorised kernels; Beam 2.77 caps it below 2.5
    "pandas>=3.0,<4",  # tables of the report and of sources that are not Arrow already
    "pyarrow>=25,<26",  # the batch that travels: Arrow record batches, Parquet lake
    "msgspec>=0.21,<1",  # decodes JSON messages fastest, and one bad message stays one error
    "orjson>=3.11,<4",  # writes JSON (dead letters, published readings) fast, NaN as null
    "tzdata>=2025.2",  # time zones where the system ships none (slim images, Windows)
    # Predictions: models are trained with scikit-learn, written as ONNX graphs and run from them.
    "scipy>=1.17,<1.18",  # solves the banded equations of smoothed curves of health
    "scikit-learn>=1.9,<1.10",  # partial least squares; training alone needs it
    "onnx>=1.23,<1.24",  # writes and checks the graphs; training alone needs it
    "onnxruntime>=1.32,<1.33",  # runs them, here and in Beam's ONNX model handler
    # Models, progress, report.
    # 1.12 needs a dependency that downloads a binary while it installs: not from PyPI alone.
    "dbt-core>=1.11,<1.12",
    "dbt-bigquery>=1.11,<1.12",  # the models on BigQuery; same minor as dbt-core
    "dbt-duckdb>=1.11,<1.12",  # the models on DuckDB; same minor as dbt-core
    "pyyaml>=6,<7",  # writes the dbt source's file; dbt reads it with the same library
    "tqdm>=4.67,<5",  # the progress bar of runs whose end is known
    "prometheus-client>=0.22,<1",  # --metrics_port: what a running job counts, for Prometheus
    "plotly>=7,<8",  # the charts of the HTML report, one file that works offline
]

# Neware's binary files; brings polars, some 180 MB, so that only who has such files installs it.
# 1.x changed what it gives between minors.
CYCLERS = ["fastnda>=1.3.1,<1.4"]

EXTRAS_REQUIRE = {
    "cyclers": CYCLERS,
    "dev": [
        *CYCLERS,  # its tests run with all readers
        "pytest>=9,<10",  # the test runner
        "pytest-cov>=7,<8",  # the branch coverage gate on transforms and schemas
        "pytest-xdist>=3.8,<4",  # several test processes: most of a test's time is waiting for a job
        "pytest-timeout>=2.4,<3",  # a hanging stream fails its test instead of the whole run
        "hypothesis>=6.150,<7",  # property tests: no input breaks a decoder or loses a row
        "moto[s3,server]>=5.2,<6",  # an S3 server for the s3:// lake's tests
        "nbclient>=0.10,<0.12",  # executes the notebook from first cell to last
        "nbformat>=5.10,<6",  # reads it, and checks that it is a notebook
        "ipykernel>=7,<8",  # the Python that its cells run in
        "matplotlib>=3.10,<4",  # its plot
        "ruff>=0.17,<0.18",  # linter and formatter; a new minor may change what it reports
        # 2.x needs a newer pathspec than dbt-core 1.11 allows (<0.13).
        "mypy>=1.19,<2",
        # Types for pandas, which ships none. pyarrow goes without: its stubs are for pyarrow 20
        # and refuse correct calls (take, fill_null).
        "pandas-stubs>=3.0,<4",
        "sqlfluff>=4.5,<5",  # the linter of the dbt models
    ],
}

setup(
    name="battery-streaming-pipeline",
    version="1.0.0",
    description="Streaming pipeline for battery and machine sensor readings on Apache Beam and dbt",
    license="Apache-2.0",
    # 3.11 alone: the lock, the worker image and the tests are for this one.
    python_requires=">=3.11,<3.12",
    packages=find_packages(
        include=["pipeline", "pipeline.*", "schemas", "schemas.*", "transforms", "transforms.*"]
    ),
    # Data files by kind, at any depth, so that a new profile or template needs no change here.
    package_data={
        package: [
            f"**/*.{suffix}"
            for suffix in ("toml", "json", "sql", "cql", "html", "css", "js", "onnx", "card.md")
        ]
        + ["py.typed"]
        for package in ("pipeline", "schemas", "transforms")
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    zip_safe=False,  # the data files are read as files
)
