"""Which source of identities a process takes: what its settings say."""

from chassis.identity.certificate import InvalidIdentity
from chassis.identity.files import FileIdentitySource
from chassis.identity.source import WatchedIdentity
from chassis.settings import ServiceSettings


def identity_source(settings: ServiceSettings, service: str) -> WatchedIdentity:
    """The source of the service's identity.

    Raises:
        InvalidIdentity: It gives none that is good.
    """
    if settings.identity_source == "files":
        return FileIdentitySource(settings.identity_directory, settings.trust_domain, service=service)
    # Only who asks for it loads the library.
    from chassis.identity.workload_api import WorkloadApiIdentitySource  # noqa: PLC0415

    if settings.spiffe_endpoint_socket is None:
        raise InvalidIdentity("SPIFFE_ENDPOINT_SOCKET is not set, such as unix:///run/spire/agent.sock")
    return WorkloadApiIdentitySource(
        settings.spiffe_endpoint_socket,
        settings.trust_domain,
        service=service,
        directory=settings.identity_directory,
    )
