"""From the settings of approvals to the service that agents ask, and the approver's side of this process."""

from collections.abc import Callable
from typing import Any

from openmcp.config.model import Configuration, DynamodbState
from openmcp.sidecar.approvals.making import make_service
from openmcp.sidecar.approvals.service import ApprovalService
from openmcp.sidecar.approvals.values import Event
from openmcp.sidecar.build.errors import BuildError
from openmcp.sidecar.state.opening import CannotOpen, open_store


def service(
    configuration: Configuration,
    on_event: Callable[[Event], None],
    spiffe_session: Callable[[DynamodbState], Any] | None = None,
) -> ApprovalService:
    """The service on the store that `state` names, which connects at its first use. Raises `BuildError`.

    `service.store` is the caller's to close. `spiffe_session` as in `open_store`.
    """
    try:
        store = open_store(configuration.state, spiffe_session)
    except CannotOpen as error:
        raise BuildError(str(error)) from error
    return make_service(configuration.approvals, store, on_event)
