"""Authorities and certificates for servers that guard what they show."""

from pathlib import Path

import pytest

from tests.support.certificates import Authority, Pair


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "server-ca")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


@pytest.fixture
def clients(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "client-ca")
