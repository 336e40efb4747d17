"""The BigQuery warehouse: tables of one dataset, written in one of three ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import apache_beam as beam

from pipeline.engines import HERE, Engine, Finished
from pipeline.errors import ConfigError
from pipeline.sinks import Produced, Sink, Wanted
from pipeline.sinks.base import refused
from pipeline.sinks.bigquery import (
    file_loads,
    loading,
    preflight,
    profiles,
    tables,
)
from pipeline.sinks.bigquery.address import Address
from pipeline.sinks.bigquery.exactly_once import WriteOnce
from pipeline.sinks.bigquery.requests import MOST_PAYLOAD_BYTES
from pipeline.sinks.bigquery.storage_write import Append
from pipeline.sinks.bigquery.streaming_inserts import Insert
from schemas.profiles import Profile
from schemas.reading import DEAD_LETTER, Table

__all__ = ["Address", "BigQuerySink"]


class BigQuerySink(Sink):
    """All tables of `schemas.reading.TABLES` in a dataset.

    How often a row can be there is told where it is written: `storage_write` (at least once),
    `exactly_once`, `streaming_inserts` (at least once), `file_loads` (each file once).

    Args:
        uri: `bigquery://PROJECT/DATASET`.
        source: the job's source as configured, without secrets.
        used: the profiles the job uses.
        engine: what it runs on.
        method: how rows are written: one of `options.BIGQUERY_METHODS`.
        delivery: of storage_write: one of `options.BIGQUERY_DELIVERIES`.
        lake: the job's lake, if it has one.
        kept_where: where dead letters are, beside this warehouse, as messages tell it; None:
            nowhere.
        load_every_s: seconds between a live job's load jobs.
        label: what the names of its steps begin with.
        on_conflict: which version of a reading counts: one of `options.CONFLICTS`. Rows are only
            appended: `readings` has all versions that came in different releases, of which the
            models take one, and `readings_superseded` those that came together with theirs.

    Raises:
        ConfigError: the URI can't be used, or the flags don't fit each other.
    """

    def __init__(
        self,
        uri: str,
        source: str,
        used: Sequence[Profile],
        engine: Engine = HERE,
        method: str = "storage_write",
        delivery: str = "at_least_once",
        lake: str | None = None,
        kept_where: str | None = None,
        load_every_s: float = 300.0,
        label: str = "BigQuery",
        on_conflict: str = "version",
    ) -> None:
        self._address = Address.parse(uri)
        self._source = source.partition("?")[0]
        self._profiles = tuple(used)
        self._engine = engine
        self._method = method
        self._once = delivery == "exactly_once"
        self._lake = lake
        self._kept_where = kept_where
        self._load_every_s = load_every_s
        self.label, self.shown = label, str(self._address)
        self.counts_every = method != "file_loads"
        self.takes_superseded = on_conflict != "replace"
        self._loads: loading.LoadThread | None = None
        self._check_flags()

    @classmethod
    def from_config(cls, wanted: Wanted) -> Self:
        """The dataset that `--warehouse=bigquery://…` names, written as its flags say."""
        config = wanted.config
        return cls(
            wanted.uri,
            source=config.source,
            used=config.profiles,
            engine=wanted.engine,
            method=config.bigquery_method,
            delivery=config.bigquery_delivery,
            lake=config.lake,
            kept_where=wanted.kept_where,
            load_every_s=config.bigquery_load_every_s,
            label=f"BigQuery{wanted.number}",
            on_conflict=config.on_conflict,
        )

    def _check_flags(self) -> None:
        if self._method == "file_loads":
            file_loads.lake_in_cloud(self._lake)
        if self._once and self._method != "storage_write":
            raise ConfigError(
                f"--bigquery_delivery=exactly_once is for --bigquery_method=storage_write, not "
                f"{self._method}; drop it (load jobs load each file once anyway)"
            )
        if self._once and not self._engine.keeps_state:
            from pipeline.engines import choose

            fit = choose.those(lambda each: each.finished is Finished.DURABLE)
            raise ConfigError(
                "--bigquery_delivery=exactly_once needs a runner that keeps state durable, such "
                f"as {fit[0].flag}; a local job forgets its own when it ends: drop it "
                "(the models keep one of two copies of a reading)"
            )

    def check(self) -> None:
        """Looks whether everything is there and may be written to; creates nothing.

        Raises:
            ConfigError: something is missing; the message says the fix.
        """
        self._look()

    def _look(self) -> tables.Found:
        if self._method == "storage_write":
            return preflight.look(self._address, lambda _: preflight.storage(self._address))
        if self._method == "streaming_inserts":
            return preflight.look(self._address)
        store = file_loads.lake_in_cloud(self._lake)
        return preflight.look(
            self._address,
            lambda place: file_loads.check_location(self._address, store, place),
        )

    def prepare(self) -> None:
        """Checks, then makes tables, adds columns that older ones lack, and writes the profiles."""
        found = self._look()

        def make() -> None:
            tables.make(self._address, found)
            profiles.write(self._address, self._profiles)

        preflight.ask(self._address, preflight.MAKE_S, make)

    def write(self, produced: Produced) -> beam.PCollection | None:
        """Adds the steps that write everything but dead letters."""
        if self._method == "file_loads":
            self._load_from_lake(produced)
            return None
        refusals = [
            rows | f"{self.label}_{table.name}" >> self._writing(table)
            for table, rows in self.given(produced)
        ]
        return tuple(refusals) | f"{self.label}_refused" >> beam.Flatten()

    def write_dead_letters(self, letters: beam.PCollection) -> None:
        """Adds the steps that write dead letters."""
        if self._method == "file_loads":
            return
        name = f"{self.label}_{DEAD_LETTER.name}"
        if self._method == "storage_write":
            letters = letters | f"{name}_fit" >> beam.ParDo(
                refused.Fit(self._kept_where, MOST_PAYLOAD_BYTES)
            )
        kept = refused.KeptElsewhere(self._address.told, self._kept_where)
        _ = letters | name >> self._writing(DEAD_LETTER) | f"{name}_kept" >> beam.ParDo(kept)

    def _writing(self, table: Table) -> beam.PTransform:
        """Tables of rows → dead letters of what is refused."""
        given = (self._address, table, self._source)
        if self._method == "streaming_inserts":
            return Insert(*given, self._kept_where, self.label)
        if self._once:
            return WriteOnce(*given, self.label)
        return beam.ParDo(Append(*given, self.label))

    def _load_from_lake(self, produced: Produced) -> None:
        assert self._lake is not None
        if produced.readings.is_bounded:
            return
        if self._engine.here:
            self._loads = loading.LoadThread(
                self._lake, self._address, self._load_every_s, self.label
            )
            self._loads.start()
            return
        every = loading.LoadEvery(self._lake, self._address, self._load_every_s, self.label)
        _ = produced.readings.pipeline | f"{self.label}_loads" >> every

    def complete(self) -> None:
        """Loads what the lake has got since; called when the job came to its end as it should.

        Raises:
            WarehouseFailed: BigQuery does not take it.
        """
        if self._method == "file_loads":
            assert self._lake is not None
            self._stop_loads()
            loading.load_and_tell(self._lake, self._address, self.label)

    def finish(self) -> None:
        """Ends the load jobs' thread."""
        self._stop_loads()

    def _stop_loads(self) -> None:
        if self._loads is not None:
            self._loads.stop()
            self._loads = None
