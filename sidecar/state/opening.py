"""From `state` of the configuration to a store; what a kind of store needs is imported for it alone."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from openmcp.config import secrets
from openmcp.config.model import DynamodbState, RedisState, Secret, SqliteState, State
from openmcp.sidecar.state.store import StateStore


class CannotOpen(Exception):
    """A store that cannot even be tried: a secret or a library is missing. The text says what to do."""


def open_store(state: State, spiffe_session: Callable[[DynamodbState], Any] | None = None) -> StateStore:
    """The store; it connects at its first use. Raises `CannotOpen`; blocks while secrets are read.

    For `credentials: spiffe`, `spiffe_session` makes a session of botocore that takes the role, now and in this event
    loop (`identity.aws.session`).
    """
    try:
        if isinstance(state, SqliteState):
            return _sqlite(state)
        if isinstance(state, RedisState):
            return _redis(state)
        if isinstance(state, DynamodbState):
            return _dynamodb(state, spiffe_session)
    except secrets.SecretError as error:
        raise CannotOpen(f"state: {error}") from error
    except ImportError as error:
        raise CannotOpen(f"state: {error}: pip install 'openmcp[{_extra(state)}]'") from error
    from openmcp.sidecar.state.memory import MemoryStore

    return MemoryStore()


def _sqlite(state: SqliteState) -> StateStore:
    from openmcp.sidecar.state.sqlite import SqliteStore

    return SqliteStore(Path(state.path))


def _redis(state: RedisState) -> StateStore:
    from openmcp.sidecar.state.redis import RedisStore

    return RedisStore(state.url, password=_secret(state.password), ca=_secret(state.ca))


def _dynamodb(state: DynamodbState, spiffe_session: Callable[[DynamodbState], Any] | None) -> StateStore:
    from openmcp.sidecar.state.dynamodb import DynamoStore

    if find_spec("botocore") is None:
        raise ImportError("botocore is not installed")
    session = None
    if state.credentials == "spiffe":
        if spiffe_session is None:
            raise CannotOpen("state: `credentials: spiffe` needs an SVID, and there is none here")
        session = spiffe_session(state)
    return DynamoStore(
        state.table, state.region, endpoint=state.endpoint, home_region=state.home_region or "", session=session
    )


def _secret(secret: Secret | None) -> str | None:
    return None if secret is None else secrets.read(secret).decode()


def _extra(state: State) -> str:
    return "redis" if isinstance(state, RedisState) else "dynamodb"
