"""Tests of pipeline/stores, against a folder, a fake Cloud Storage and an S3 server."""
