"""The dataset that a `bigquery://` URI names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline import shown
from pipeline.connect import google, split_uri
from pipeline.errors import ConfigError

FLAG = "--warehouse"
_FORM = "bigquery://PROJECT/DATASET"
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")


@dataclass(frozen=True)
class Address:
    """A dataset of BigQuery.

    Attributes:
        project: the project's id.
        dataset: the dataset's name.
    """

    project: str
    dataset: str

    @classmethod
    def parse(cls, uri: str) -> Address:
        """The dataset that `uri` names.

        Raises:
            ConfigError: it can't be used; the message names the flag and the fix.
        """
        project, dataset, query = split_uri(uri, "bigquery", _FORM, FLAG)
        if query:
            raise ConfigError(
                f"{FLAG}={shown.address(uri)}: takes no parameters; must look like {_FORM}"
            )
        google.check_project(project, uri, _FORM, FLAG)
        if not _DATASET.fullmatch(dataset):
            raise ConfigError(
                f"{FLAG}={shown.address(uri)}: {dataset!r} can't be a dataset; a name has letters, digits and _"
            )
        return cls(project, dataset)

    @property
    def told(self) -> str:
        """The flag and its value, as messages begin."""
        return f"{FLAG}={self}"

    def table(self, name: str) -> str:
        """A table's id as the API and SQL have it."""
        return f"{self.project}.{self.dataset}.{name}"

    def path(self, name: str) -> str:
        """A table's resource name, as the Storage Write API has it."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{name}"

    def __str__(self) -> str:
        return f"bigquery://{self.project}/{self.dataset}"
