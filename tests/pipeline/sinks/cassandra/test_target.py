"""Cassandra's addresses and logins: what can't be used is told with its flag or variable and the fix."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.connect.cassandra import CassandraAddress, client_settings
from pipeline.errors import ConfigError
from pipeline.shown import address
from pipeline.sinks.cassandra import Target

PLACE = "cassandra://h/fleet"


def test_an_address_names_nodes_keyspace_and_how_rows_are_kept() -> None:
    target = Target.parse(
        "cassandra://a.example:9043,b.example,[::1]:19042/Fleet_1?consistency=quorum&datacenter=eu"
        "&ttl=90&round=voltage_v:3,current_a:0&replication=eu:3,us:2"
    )
    address = target.address
    assert address.hosts == (("a.example", 9043), ("b.example", 9042), ("::1", 19042))
    assert (address.keyspace, address.consistency) == ("Fleet_1", "QUORUM")
    assert target.ttl_s == 90 * 86_400
    assert target.digits == (("voltage_v", 3), ("current_a", 0))
    assert target.replication == (("eu", 3), ("us", 2))
    assert target.told == (
        "--warehouse=cassandra://a.example:9043,b.example:9042,[::1]:19042/Fleet_1"
    )
    # Steps carry it to other machines.
    assert pickle.loads(pickle.dumps(target)) == target
    assert hash(pickle.loads(pickle.dumps(target))) == hash(target)


def test_what_is_not_given_has_the_usual_value() -> None:
    target = Target.parse(PLACE)
    assert target == Target(CassandraAddress((("h", 9042),), "fleet"))
    assert target.address.consistency == "LOCAL_QUORUM"
    assert (target.ttl_s, target.digits, target.replication) == (0, (), ())
    assert Target.parse(f"{PLACE}?replication=2").replication == (("", 2),)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("cassandra:/h/k", "must look like cassandra://HOST[:PORT]"),
        ("cassandra://h", "must look like cassandra://HOST[:PORT]"),
        ("cassandra://h/k/t", "must look like cassandra://HOST[:PORT]"),
        ("cassandra://h:0/k", "'h:0' is no HOST:PORT"),
        ("cassandra://h:99999/k", "'h:99999' is no HOST:PORT"),
        ("cassandra://h,/k", "'' is no HOST:PORT"),
        ("cassandra://h/1k", "'1k' can't be a keyspace"),
        ("cassandra://h/k-1", "'k-1' can't be a keyspace"),
        ('cassandra://h/k"', "can't be a keyspace"),
        ("cassandra://h/" + "k" * 49, "can't be a keyspace"),
        (f"{PLACE}?consistancy=ONE", "no such parameter 'consistancy'; valid are consistency, "),
        (f"{PLACE}?consistency=ANY", "consistency=ANY can't be written with; give one of ONE,"),
        (f"{PLACE}?consistency=SERIAL", "consistency=SERIAL can't be written with"),
        (f"{PLACE}?ttl=0", "ttl=0 must be the days until a row is gone"),
        (f"{PLACE}?ttl=-1", "ttl=-1 must be the days"),
        (f"{PLACE}?ttl=7301", "at most 7300"),
        (f"{PLACE}?ttl=nan", "ttl=nan must be"),
        (f"{PLACE}?ttl=90d", "ttl=90d must be"),
        (f"{PLACE}?round=voltage:3", "'voltage' can't be rounded; give round=FIELD:DIGITS"),
        (f"{PLACE}?round=cycle_index:1", "'cycle_index' can't be rounded"),
        (f"{PLACE}?round=voltage_v", "needs a number of decimals from 0 to 15, such as"),
        (f"{PLACE}?round=voltage_v:-1", "round=voltage_v:-1 needs a number of decimals"),
        (f"{PLACE}?round=voltage_v:16", "round=voltage_v:16 needs a number of decimals"),
        (f"{PLACE}?round=voltage_v:1,voltage_v:2", "round names voltage_v twice"),
        (f"{PLACE}?replication=0", "replication=0 must be a number of copies"),
        (f"{PLACE}?replication=eu", "replication=eu must be a number of copies"),
        (f"{PLACE}?replication=eu:3,us:0", "such as eu:3,us:2"),
    ],
)
def test_a_wrong_address_is_told_with_the_fix(uri: str, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Target.parse(uri)
    assert str(raised.value).startswith(f"--warehouse={address(uri)}: ")
    assert says in str(raised.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as raised:
        Target.parse("cassandra://user:hunter2@h/fleet")
    assert "credentials come from the environment" in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_login_and_tls_come_from_the_environment() -> None:
    assert client_settings({}) == {}
    login = {"CASSANDRA_USERNAME": "writer", "CASSANDRA_PASSWORD": "hunter2"}
    provider = client_settings(login)["auth_provider"]
    assert (provider.username, provider.password) == ("writer", "hunter2")
    context = client_settings({"CASSANDRA_SSL": "true"})["ssl_context"]
    assert context.check_hostname
    context = client_settings({"CASSANDRA_SSL": "true", "CASSANDRA_SSL_CHECK_HOSTNAME": "false"})
    assert not context["ssl_context"].check_hostname
    assert client_settings({"CASSANDRA_SSL": "false"}) == {}


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"CASSANDRA_USERNAME": "u"}, "CASSANDRA_USERNAME is set without CASSANDRA_PASSWORD"),
        ({"CASSANDRA_PASSWORD": "hunter2"}, "CASSANDRA_PASSWORD is set without CASSANDRA_USERNAME"),
        ({"CASSANDRA_SSL": "yes"}, "CASSANDRA_SSL=yes: must be true or false"),
        ({"CASSANDRA_SSL_CAFILE": "none.pem"}, "CASSANDRA_SSL_CAFILE=none.pem: no such file"),
        (
            {"CASSANDRA_SSL": "true", "CASSANDRA_SSL_CHECK_HOSTNAME": "maybe"},
            "CASSANDRA_SSL_CHECK_HOSTNAME=maybe: must be true or false",
        ),
    ],
)
def test_what_contradicts_itself_is_named_without_its_secret(
    environment: dict[str, str], says: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        client_settings(environment)
    assert says in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text("not a key")
    with pytest.raises(ConfigError, match="CASSANDRA_SSL_KEYFILE is set without"):
        client_settings({"CASSANDRA_SSL_KEYFILE": str(file)})
    for name in ("CASSANDRA_SSL_CAFILE", "CASSANDRA_SSL_CERTFILE"):
        with pytest.raises(ConfigError, match=rf"{name}=.*key\.pem: can't be used \("):
            client_settings({name: str(file)})
