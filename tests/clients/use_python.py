"""Uses the client that openapi-python-client made, as a person would. Run in the client's own environment."""
# mypy: ignore-errors

import sys

from carry_client import AuthenticatedClient
from carry_client.api.series import forecast
from carry_client.api.sessions import create_session, fork_session, list_sessions
from carry_client.api.text import generate
from carry_client.models import CreateBody, ForecastBody, ForkBody, GenerateBody, Problem

url, key = sys.argv[1:]
with AuthenticatedClient(base_url=url, token=key) as client:
    answer = forecast.sync(client=client, body=ForecastBody(series=[3, 4, 6, 5, 7, 8], horizon=2))
    assert len(answer.median) == 2, answer
    text = generate.sync(client=client, body=GenerateBody(prompt="The old house ", max_length=20, seed=1))
    assert len(text.text) == 20, text
    session = create_session.sync(client=client, body=CreateBody(series=[1, 2, 3]))
    fork = fork_session.sync(session.id, client=client, body=ForkBody(version=0))
    assert {one.id for one in list_sessions.sync(client=client).sessions} == {session.id, fork.id}
    refused = forecast.sync(client=client, body=ForecastBody(series=[None]))
    assert isinstance(refused, Problem), refused
    assert refused.code == "invalid_request", refused
