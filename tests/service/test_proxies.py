"""The service behind a proxy, called by web pages, and with TLS."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import structlog
from pydantic import SecretStr, ValidationError
from starlette.testclient import TestClient

from service.app import create_app
from service.http.tls import open_certificate
from service.settings import Settings
from tests.served import KEY, served

BEARER = {"Authorization": f"Bearer {KEY}"}
ORIGIN = "https://example.com"
FORECAST = {"series": [1, 2, 3], "horizon": 2}


@pytest.fixture(scope="module")
def below(models: Path) -> Iterator[TestClient]:
    """The application below /carry."""
    settings = Settings(models_dir=models, root_path="/carry", api_keys=(SecretStr(KEY),))
    with TestClient(create_app(settings), raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


@pytest.fixture(scope="module")
def page(models: Path) -> Iterator[TestClient]:
    """The application, which pages of ORIGIN may call."""
    settings = Settings(models_dir=models, cors_origins=(ORIGIN,), api_keys=(SecretStr(KEY),))
    with TestClient(create_app(settings), raise_server_exceptions=False, headers={"Origin": ORIGIN}) as client:
        yield client


@pytest.mark.parametrize("prefix", ["", "/carry"])
def test_all_stays_below_the_root_path_whether_the_proxy_cuts_it_off_or_not(below: TestClient, prefix: str) -> None:
    assert below.get(f"{prefix}/health/live").status_code == 200
    assert below.get(f"{prefix}/openapi.json").json()["servers"][0]["url"] == "/carry"
    for page in ("/", "/docs", "/redoc"):
        text = below.get(f"{prefix}{page}").text
        assert "page/" in text
        assert '="/' not in text  # each link is relative
    created = below.post(f"{prefix}/sessions", json={"series": [1, 2]}, headers=BEARER)
    assert created.status_code == 201, created.text
    assert created.headers["location"] == f"/carry/sessions/{created.json()['id']}"
    assert below.post(f"{prefix}/forecast", json=FORECAST).status_code == 401
    error = below.post(f"{prefix}/completions", json={}, headers=BEARER).json()["error"]
    assert error["message"].endswith("/carry/v1")
    assert below.get(f"{prefix}/forecast", headers=BEARER).headers["allow"] == "OPTIONS, POST"


def test_the_root_path_alone_leads_to_the_page(below: TestClient) -> None:
    answer = below.get("/carry")
    assert (answer.status_code, answer.headers["location"]) == (307, "/carry/")


def test_a_path_that_begins_alike_is_another_path(below: TestClient) -> None:
    assert below.get("/carryon/health/live", headers=BEARER).status_code == 404


def test_a_repeated_call_runs_once_whether_the_proxy_cuts_off_the_root_path_or_not(below: TestClient) -> None:
    headers = BEARER | {"Idempotency-Key": "one"}
    first = below.post("/sessions", json={"series": [1, 2]}, headers=headers)
    again = below.post("/carry/sessions", json={"series": [1, 2]}, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json() == first.json()


def test_a_log_line_names_the_key_the_model_and_the_bytes_but_no_secret(below: TestClient) -> None:
    body = b'{"series": [1, 2, 3]}'
    with structlog.testing.capture_logs() as lines:
        answer = below.post("/forecast", content=body, headers=BEARER | {"Content-Type": "application/json"})
    [line] = [line for line in lines if line["event"] == "request"]
    assert (line["key"], line["model"]) == ("key-1", "forecast@1")
    assert (line["bytes_in"], line["bytes_out"]) == (len(body), len(answer.content))
    assert KEY not in str(line)


@contextmanager
def nginx(folder: Path, upstream: str) -> Iterator[httpx.Client]:
    """A client of nginx, which passes on /cut/ without the prefix, and /carry/ with it."""
    command = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if command is None:
        reason = "THE SERVICE BEHIND NGINX IS NOT TESTED: no nginx on the PATH"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    user = "user root;" if os.getuid() == 0 else ""
    paths = "".join(f"{name}_temp_path {folder};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    forward = "proxy_set_header Host $host; proxy_set_header X-Forwarded-For 203.0.113.7;"
    (folder / "nginx.conf").write_text(f"""
        daemon off; pid {folder}/pid; error_log stderr; {user}
        events {{}}
        http {{ access_log off; {paths} {forward}
            server {{ listen unix:{folder}/socket;
                location /cut/ {{ proxy_pass {upstream}/; }}
                location /carry/ {{ proxy_pass {upstream}; }} }} }}""")
    with subprocess.Popen([command, "-p", folder, "-c", folder / "nginx.conf"], stderr=subprocess.PIPE) as process:
        transport = httpx.HTTPTransport(uds=f"{folder}/socket", retries=10)  # it listens soon
        try:
            with httpx.Client(base_url="http://example.com", transport=transport, timeout=60) as client:
                yield client
        finally:
            process.terminate()


def test_nginx_may_cut_off_the_prefix_or_not(models: Path, tmp_path: Path) -> None:
    with (
        structlog.testing.capture_logs() as lines,
        served(models, root_path="/carry") as url,
        nginx(tmp_path, url) as client,
    ):
        for prefix in ("/cut", "/carry"):
            assert client.post(f"{prefix}/forecast", json=FORECAST, headers=BEARER).status_code == 200
            page = client.get(f"{prefix}/")
            script = page.text.split('src="page/')[1].split('"')[0]
            assert client.get(f"{prefix}/page/{script}").headers["content-type"].startswith("text/javascript")
    clients = [(line["path"], line["client"]) for line in lines if line.get("method") == "POST"]
    assert clients == 2 * [("/forecast", "203.0.113.7")]


@pytest.mark.parametrize(
    ("proxies", "believed"), [("127.0.0.0/8", True), ("*", True), ("10.0.0.0/8,::1", False), ("", False)]
)
def test_only_trusted_proxies_tell_the_clients_address(
    models: Path, monkeypatch: pytest.MonkeyPatch, proxies: str, believed: bool
) -> None:
    monkeypatch.setenv("CARRY_TRUSTED_PROXIES", proxies)
    with structlog.testing.capture_logs() as lines, served(models) as url:
        httpx.get(f"{url}/version", headers={"X-Forwarded-For": "203.0.113.7"}, timeout=60)
    [line] = [line for line in lines if line["event"] == "request"]
    assert line["client"] == ("203.0.113.7" if believed else "127.0.0.1")


def test_a_page_of_an_allowed_origin_asks_without_a_key_and_may_call(page: TestClient) -> None:
    asked = ["authorization", "content-type", "idempotency-key", "if-match", "traceparent", "x-request-timeout"]
    headers = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ",".join(asked)}
    preflight = page.options("/sessions", headers=headers)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["access-control-allow-headers"] == ",".join(asked)
    created = page.post("/sessions", json={"series": [1, 2]}, headers=BEARER)
    assert created.status_code == 201
    assert created.headers["access-control-allow-origin"] == ORIGIN
    assert created.headers["access-control-expose-headers"] == "*"
    assert "access-control-allow-credentials" not in created.headers


def test_a_page_can_read_every_refusal_even_an_unexpected_error(
    page: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page.post("/forecast", json=FORECAST).headers["access-control-allow-origin"] == ORIGIN  # 401

    def broken(*_: object) -> None:
        raise KeyError

    monkeypatch.setattr("service.forecast.prepare.series_values", broken)
    answer = page.post("/forecast", json=FORECAST, headers=BEARER)
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("origin", ["https://example.org", "http://example.com", "https://example.com:444", "http://["])
def test_a_page_of_another_origin_may_not_call(page: TestClient, client: TestClient, origin: str) -> None:
    preflight = page.options("/forecast", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    assert preflight.status_code == 400
    assert "access-control-allow-origin" not in preflight.headers
    refused = page.post("/forecast", json=FORECAST, headers=BEARER | {"Origin": origin})
    assert (refused.status_code, refused.json()["code"]) == (403, "cross_origin")
    assert client.post("/forecast", json=FORECAST, headers={"Origin": origin}).status_code == 403


def test_a_star_lets_in_the_pages_of_all_origins(models: Path) -> None:
    with TestClient(create_app(Settings(models_dir=models, cors_origins=("*",)))) as client:
        answer = client.post("/forecast", json=FORECAST, headers={"Origin": "https://anyone.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "*")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("cors_origins", "https://example.com/", "without a path"),
        ("cors_origins", "example.com", "https://example.com"),
        ("trusted_proxies", "proxy", "networks"),
        ("trusted_proxies", "10.0.0.1/8", "host bits"),
        ("root_path", "carry", "/carry"),
        ("root_path", "/a b", "letters"),
        ("tls_key", "key.pem", "need each other"),
    ],
)
def test_a_wrong_setting_says_what_is_accepted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, reason: str
) -> None:
    monkeypatch.setenv(f"CARRY_{name.upper()}", value)
    with pytest.raises(ValidationError, match=reason):
        Settings()


def test_lists_and_the_root_path_are_read_leniently(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARRY_CORS_ORIGINS", " https://a.example , http://localhost:3000,")
    monkeypatch.setenv("CARRY_ROOT_PATH", "/carry/")
    settings = Settings()
    assert settings.cors_origins == ("https://a.example", "http://localhost:3000")
    assert settings.root_path == "/carry"


def write_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A new certificate of 127.0.0.1 and its key, with `name` in its subject."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-nodes",
        "-days",
        "2",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
    ]
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-subj", f"/CN={name}"]
    subprocess.run([*command, *extension, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def subject(url: str) -> str:
    """The name in the certificate of a service."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    assert port is not None
    text = ssl.get_server_certificate((host, port))
    command = ["openssl", "x509", "-noout", "-subject", "-nameopt", "multiline"]
    return subprocess.run(command, input=text, text=True, check=True, capture_output=True).stdout.split()[-1]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    if shutil.which("openssl") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("TLS IS NOT TESTED: no openssl on the PATH")
    return write_certificate(tmp_path, "first")


def test_the_service_speaks_tls_and_reads_a_renewed_certificate(models: Path, files: tuple[Path, Path]) -> None:
    certificate, key = files
    with served(models, tls_certificate=certificate, tls_key=key) as plain:
        url = plain.replace("http:", "https:")
        trusted = ssl.create_default_context(cafile=certificate)
        with httpx.Client(base_url=url, verify=trusted, headers=BEARER, timeout=60) as client:
            assert client.post("/forecast", json=FORECAST).status_code == 200
            body = {"prompt": "ab", "max_length": 20, "stream": True}
            assert '"finish_reason"' in client.post("/generate", json=body).text
            assert subject(url) == "first"
            certificate.write_text("not a certificate")
            with structlog.testing.capture_logs() as lines:
                assert subject(url) == "first"
            assert [line["log_level"] for line in lines if "certificate" in line["event"]] == ["error"]
            write_certificate(certificate.parent, "second")
            assert subject(url) == "second"
            assert client.post("/forecast", json=FORECAST).status_code == 200  # the old connection goes on
        with pytest.raises(httpx.RemoteProtocolError):
            httpx.get(f"{plain}/health/live", timeout=60)


def test_a_client_that_says_nothing_of_tls_harms_no_other(models: Path, files: tuple[Path, Path]) -> None:
    with served(models, tls_certificate=files[0], tls_key=files[1]) as url:
        address = (httpx.URL(url).host, httpx.URL(url).port or 0)
        with socket.create_connection(address), socket.create_connection(address) as noise:
            noise.sendall(b"\x16\x03\x01" + b"\xff" * 1000)
            assert subject(url) == "first"


@pytest.mark.parametrize("fault", ["missing", "no key", "another key", "password"])
def test_a_wrong_certificate_is_an_error(tmp_path: Path, files: tuple[Path, Path], fault: str) -> None:
    certificate, key = files
    if fault == "missing":
        certificate = tmp_path / "nowhere.pem"
    elif fault == "no key":
        key.write_text("not a key")
    elif fault == "another key":
        (tmp_path / "other").mkdir()
        _, key = write_certificate(tmp_path / "other", "other")
    else:
        encrypted = tmp_path / "encrypted.pem"
        encrypt = ["openssl", "ec", "-aes128", "-passout", "pass:secret", "-in", str(key), "-out", str(encrypted)]
        subprocess.run(encrypt, check=True, capture_output=True)
        key = encrypted
    with pytest.raises(OSError, match=fault if fault == "password" else None):
        open_certificate(certificate, key)


def test_the_service_does_not_start_without_its_certificate(tmp_path: Path) -> None:
    settings = {"TLS_CERTIFICATE": tmp_path / "nowhere.pem", "TLS_KEY": tmp_path / "key.pem", "PORT": 0, "PROCESSES": 1}
    environment = os.environ | {f"CARRY_{name}": str(value) for name, value in settings.items()}
    command = [str(Path(sys.executable).parent / "carry"), "serve"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert "carry: cannot use CARRY_TLS_CERTIFICATE with CARRY_TLS_KEY: " in ended.stderr
    assert "Traceback" not in ended.stderr
