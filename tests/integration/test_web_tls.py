"""The page over TLS."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import StartupError
from pipeline.sinks.view import SiteView
from pipeline.sinks.web.passwords import hashed
from tests.runs import free_port
from tests.web_page import ANNA, Page


@pytest.fixture
def tls_page(tmp_path: Path) -> Iterator[Page]:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    if subprocess.run([*command, "-keyout", key, "-out", certificate], capture_output=True, check=False).returncode:
        pytest.skip("openssl cannot make a certificate here")
    options = {"users": {"anna": hashed(ANNA)}, "tls_certificate": certificate, "tls_key": key}
    page = Page(tmp_path / "state", free_port(), **options)
    page.tls = ssl.create_default_context(cafile=str(certificate))
    page.open()
    yield page
    page.sink.close()


def test_over_tls_the_cookie_is_for_tls_alone(tls_page: Page) -> None:
    cookie = tls_page.log_in()[1]["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert "secure" in cookie.lower()
    assert tls_page.ask("/api/v1/sources", headers={"Cookie": cookie.partition(";")[0]})[0] == 200


def test_a_wrong_certificate_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("nothing")
    page = Page(tmp_path / "state", free_port(), tls_certificate=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem")
    with pytest.raises(StartupError, match=r"sink page: .*cert\.pem: not a certificate and its key"):
        page.sink.open(SiteView("site", {}))
    page.sink.close()
