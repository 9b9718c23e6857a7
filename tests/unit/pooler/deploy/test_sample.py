"""The sample ini: as printed it changes nothing, and every line of it reads."""

from __future__ import annotations

import re

from pooler.config.databases import KEYS, DatabaseConfig, PeerConfig, UserConfig
from pooler.config.settings import OWN, SETTINGS, OwnSettings, Settings
from pooler.config.whole import parse
from pooler.deploy.sample import ABOUT_NOBODY, sample


def test_as_it_is_it_says_nothing() -> None:
    config = parse(sample(), "sample")
    assert (config.settings, config.own) == (Settings(), OwnSettings())
    assert (config.databases, config.users, config.peers, config.warnings) == ({}, {}, {}, ())


def test_what_is_uncommented_is_the_default() -> None:
    uncommented = re.sub(r"^;(?=\S)", "", sample(), flags=re.MULTILINE)
    config = parse(uncommented, "sample")
    given = {key for key, row in SETTINGS.items() if row.default is not None}
    assert {key: getattr(config.settings, key) for key in given} == {key: getattr(Settings(), key) for key in given}
    assert config.own == OwnSettings()
    assert set(config.databases) == {"app"}
    assert config.fallback
    assert set(config.users) == {"batch"}
    assert set(config.peers) == {1, 2}


def test_everything_is_there() -> None:
    text = sample()
    for key in {**SETTINGS, **OWN}.keys() - ABOUT_NOBODY:
        assert f"\n;{key} =" in text, key
    keys = set(re.findall(r"\w+", " ".join(re.findall(r"; Keys: (?:.*\n; ?)*.*", text))))
    assert {name for table in KEYS.values() for name in table} <= keys
    assert {DatabaseConfig, UserConfig, PeerConfig} == set(KEYS)
    assert "One of session, transaction, statement." in text
