"""The end of the service: no request is lost that could be answered, whatever the signal and the moment."""

import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.e2e.serving import PATIENCE, Service
from tests.e2e.test_supervisor import is_ready, one_call_under_way, peer_ports, readiness, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone can pause a listening socket")

FORECAST = b'{"series": [1, 2, 3], "horizon": 2}'
REQUEST = (
    b"POST /forecast HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
    % (len(FORECAST), FORECAST)
)
LONG = {"prompt": "a", "max_length": 10**6}


@pytest.fixture
def store(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/carry.db"


@contextmanager
def connect(url: str) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)) as connection:
        yield connection


def forecast(connection: http.client.HTTPConnection) -> tuple[int, bool]:
    """The status, and whether the service closes the connection."""
    connection.request("POST", "/forecast", FORECAST, {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    return response.status, response.will_close


@contextmanager
def stopped(pids: Sequence[int]) -> Iterator[None]:
    """The processes stand still."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def read_answers(connection: socket.socket) -> list[bytes]:
    """The heads of all answers until the service closes the connection."""
    received = b""
    while piece := connection.recv(2**16):
        received += piece
    return [answer.split(b"\r\n\r\n")[0] for answer in received.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_draining_service_is_not_ready_and_serves_until_a_second_signal(
    models: Path, store: str, processes: int
) -> None:
    with Service(models, store, processes=processes, drain_seconds=600) as service, connect(service.url) as kept:
        assert forecast(kept) == (200, False)
        os.kill(service.pid, signal.SIGTERM)
        until(lambda: readiness(service.url)[0] == 503)
        for _ in range(20):  # every process
            status, problem = readiness(service.url)
            assert (status, json.loads(problem)["code"]) == (503, "not_ready")
            assert "is ending" in problem
            assert httpx2.head(f"{service.url}/health/ready", timeout=PATIENCE).status_code == 503
            assert httpx2.get(f"{service.url}/health/live", timeout=PATIENCE).status_code == 200
            with connect(service.url) as connection:
                assert forecast(connection) == (200, True)
        assert forecast(kept) == (200, True)
        url = urlsplit(service.url)
        with socket.create_connection((url.hostname or "", url.port or 0), timeout=PATIENCE) as pipelined:
            pipelined.sendall(3 * REQUEST)
            answers = read_answers(pipelined)
        assert [b"connection: close" in answer.lower() for answer in answers] == [False, False, True]
        service.stop()
    assert service.line("ending at once" if processes > 1 else "ended at once")


def test_connections_that_wait_to_be_accepted_are_answered(models: Path, store: str) -> None:
    with Service(models, store) as service, connect(service.url) as kept:
        assert forecast(kept) == (200, False)
        url = urlsplit(service.url)
        with stopped([service.pid]):
            waiting = [
                socket.create_connection((url.hostname or "", url.port or 0), timeout=PATIENCE) for _ in range(50)
            ]
            for connection in waiting:
                connection.sendall(REQUEST)
            kept.request("POST", "/forecast", FORECAST, {"Content-Type": "application/json"})
            os.kill(service.pid, signal.SIGTERM)
        for connection in waiting:
            with connection:
                [answer] = read_answers(connection)
                assert answer.startswith(b"200 ")
                assert b"connection: close" in answer.lower()
        assert kept.getresponse().status == 200


def test_clients_that_never_stop_lose_no_request(models: Path, store: str) -> None:
    with Service(models, store, processes=2) as service, ThreadPoolExecutor(8) as pool:

        def call_until_refused(keep: bool) -> int:
            count = 0
            with connect(service.url) as connection:
                while True:
                    try:
                        if connection.sock is None:
                            connection.connect()
                    except ConnectionRefusedError:
                        return count
                    assert forecast(connection)[0] == 200
                    count += 1
                    if not keep:
                        connection.close()

        counts = [pool.submit(call_until_refused, keep) for keep in 4 * [True, False]]
        until(lambda: is_ready(service.url))
        service.stop()
        assert all(count.result(PATIENCE) > 0 for count in counts)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_request_that_outlives_the_grace_period_is_told(models: Path, store: str, processes: int) -> None:
    service = Service(models, store, processes=processes, shutdown_grace=1, max_generated_length=10**6)
    with service, ThreadPoolExecutor(1) as pool:
        with one_call_under_way(service.url):  # it began before, so its connection breaks
            whole = pool.submit(httpx2.post, f"{service.url}/generate", json=LONG, timeout=PATIENCE)
            until(lambda: "carry_http_requests_in_flight 3.0" in metrics(service.url))  # with the scrape
            service.stop()
        answer = whole.result(PATIENCE)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert "requests are cut after the grace period" in [error["event"] for error in service.errors]


def metrics(url: str) -> str:
    return httpx2.get(f"{url}/metrics", timeout=PATIENCE).text


def test_a_process_that_dies_in_the_drain_is_replaced_and_one_that_dies_after_it_is_reported(
    models: Path, store: str
) -> None:
    with Service(models, store, processes=2, drain_seconds=600, max_generated_length=10**6) as service:
        until(lambda: is_ready(service.url))
        os.kill(service.pid, signal.SIGTERM)
        for _ in range(2):
            service.line("draining")
        os.kill(service.processes[0], signal.SIGKILL)
        service.processes[0] = service.line("process started")["process"]
        for _ in range(20):
            with connect(service.url) as connection:
                assert forecast(connection) == (200, True)
        service.errors.clear()
        service.stop()
    with Service(models, store, processes=2, max_generated_length=10**6) as service:
        until(lambda: is_ready(service.url))
        with one_call_under_way(service.url) as port:
            (busy,) = [pid for pid in service.processes if port in peer_ports(pid)]
            os.kill(service.pid, signal.SIGTERM)
            service.line("drained")  # the other one
            os.kill(busy, signal.SIGKILL)
            died = service.line("a process died while it was ending; its requests are lost")
            assert (died["process"], died["status"]) == (busy, -signal.SIGKILL)
        service.errors.clear()


@pytest.mark.parametrize(("processes", "last"), [(1, "drained"), (2, "ended")])
def test_more_signals_at_the_end_do_not_change_the_exit_status(
    models: Path, store: str, processes: int, last: str
) -> None:
    with Service(models, store, processes=processes) as service:
        os.kill(service.pid, signal.SIGTERM)
        service.line(last)
        while os.waitid(os.P_PID, service.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            os.kill(service.pid, signal.SIGTERM)


def test_ctrl_c_skips_the_drain_and_a_hangup_reloads_one_process_as_several(models: Path, store: str) -> None:
    for processes in (1, 2):
        with Service(models, store, processes=processes, drain_seconds=600) as service:
            os.kill(service.pid, signal.SIGUSR1)
            os.kill(service.pid, signal.SIGHUP)
            service.line("reload requested")
            assert is_ready(service.url)
            service.stop(signal.SIGINT)
            assert service.line("drained")
