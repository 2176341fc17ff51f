"""What a request costs whom: its address when it comes, its person once that is known."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from math import ceil
from typing import Final

from gateway.application.quotas import Quota, Quotas, Standing
from gateway.problems import Refused

_IPV6_PREFIX: Final = 64
_meter: ContextVar["Meter | None"] = ContextVar("almagest_meter", default=None)


@dataclass(frozen=True, slots=True)
class Limits:
    """The quotas of this door; None: there is none."""

    address: Quota | None
    person: Quota | None
    trusted_proxies: Sequence[IPv4Network | IPv6Network] = ()


class Meter:
    """What is said of quotas in the answer to one request."""

    __slots__ = ("_limits", "_quotas", "_standings")

    def __init__(self, quotas: Quotas, limits: Limits) -> None:
        self._quotas = quotas
        self._limits = limits
        self._standings: list[Standing] = []
        _meter.set(self)

    def charge_address(self, address: str) -> None:
        """Let the address pay.

        Raises:
            Refused: It has nothing left.
        """
        self._charge(self._limits.address, address)

    def charge_person(self, subject: str) -> None:
        """Let the person pay.

        Raises:
            Refused: They have nothing left.
        """
        self._charge(self._limits.person, subject)

    def _charge(self, quota: Quota | None, who: str) -> None:
        if quota is None:
            return
        standing = self._quotas.take(quota, who)
        self._standings.append(standing)
        if not standing.allowed:
            raise Refused(
                429,
                "RATE_LIMITED",
                f"More than {quota.requests} requests in {quota.seconds:g} seconds by this {quota.name}."
                f" Wait {ceil(standing.retry_after)} s.",
                metadata={"quota": quota.name},
                extra_headers={"Retry-After": str(ceil(standing.retry_after))},
            )

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The quotas and what is left of them (draft-ietf-httpapi-ratelimit-headers-10)."""
        if not self._standings:
            return []
        policies = ", ".join(
            f'"{one.quota.name}";q={one.quota.requests};w={one.quota.seconds:g}' for one in self._standings
        )
        left = ", ".join(f'"{one.quota.name}";r={one.remaining};t={ceil(one.full_after)}' for one in self._standings)
        return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", left.encode())]


def charge_person(subject: str) -> None:
    """Let the person of the present request pay, if it is metered.

    Raises:
        Refused: They have nothing left.
    """
    meter = _meter.get()
    if meter is not None:
        meter.charge_person(subject)


def address_of(peer: str, forwarded: Sequence[str], limits: Limits) -> str:
    """Whose request it is, by address: the peer's, or what the proxies that are trusted say, the last one first.

    An IPv6 client usually has all of a /64, so that is what counts as one.
    """
    address = peer
    for hop in reversed(forwarded):
        if not _is_trusted(address, limits):
            break
        address = hop.strip()
    return _counted(address) or peer


@lru_cache(maxsize=4096)
def _counted(address: str) -> str | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return str(parsed.ipv4_mapped)
        return str(IPv6Network((parsed, _IPV6_PREFIX), strict=False))
    return str(parsed)


def _is_trusted(address: str, limits: Limits) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed.version == network.version and parsed in network for network in limits.trusted_proxies)
