"""The composition root."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import UUID

from almagest.auth.v1 import (
    access_keys_pb2,
    access_keys_pb2_grpc,
    audit_pb2,
    audit_pb2_grpc,
    auth_pb2,
    auth_pb2_grpc,
    payload_keys_pb2,
    payload_keys_pb2_grpc,
    people_pb2,
    people_pb2_grpc,
    privacy_pb2,
    privacy_pb2_grpc,
)
from almagest.eventstore.v1 import event_store_pb2_grpc
from chassis.database.engine import create_engine
from chassis.database.pool import Database
from chassis.identity.spiffe import SpiffeId
from chassis.ids import uuid7
from chassis.payloads import Suite
from chassis.process import Assembly, Chassis, Task
from chassis.redis import connect
from chassis.refusals import tell
from chassis.revocations import Revocation, Revocations, Revoked
from chassis.sealing.columns import seal_with
from chassis.sealing.subjects import SubjectSealer
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from auth.adapters.access_keys import PostgresAccessKeys
from auth.adapters.argon2 import Argon2Passwords
from auth.adapters.audit import PostgresAudit
from auth.adapters.audit_relay import AuditRelay, Log
from auth.adapters.changes import PostgresChanges
from auth.adapters.common_passwords import ListedPasswords
from auth.adapters.data_keys import DataKeys
from auth.adapters.erasures import PostgresErasures
from auth.adapters.jose import KeyForge, KeyRing, fresh_pair
from auth.adapters.kms import plugin, unwrapped
from auth.adapters.payload_keys import PayloadKeyForge, PostgresPayloadKeys
from auth.adapters.places import EveryPlace
from auth.adapters.postgres import PostgresPeople, PostgresSessions, PostgresSigningKeys
from auth.adapters.redis import RedisLedger
from auth.adapters.revocations import PostgresRevocations
from auth.adapters.rotation import Keys, Rotation
from auth.adapters.sealing import KeyEncryptionKey, KeyEncryptionKeyError
from auth.adapters.sharding import Shards, sharded_sessions
from auth.adapters.subject_keys import PostgresSubjectKeys
from auth.application import access_keys, changes
from auth.application.attempts import Attempts, Ledger, LocalLedger
from auth.application.forgetting import Forgetting
from auth.application.keys import ensure_keys
from auth.application.payload_keys import Kinds, ensure_payload_keys
from auth.application.sessions import Terms
from auth.domain import access_keys as access_key_rules
from auth.domain.sessions import SECRET_BYTES
from auth.entrypoints.access_keys import AccessKeyServicer
from auth.entrypoints.audit import AuditServicer, keep_denials
from auth.entrypoints.errors import ERRORS
from auth.entrypoints.payload_keys import PayloadKeyServicer, keep_renewing
from auth.entrypoints.people import PeopleServicer
from auth.entrypoints.policy import POLICY
from auth.entrypoints.privacy import PrivacyServicer
from auth.entrypoints.revocations import RevocationNews
from auth.entrypoints.servicer import AuthServicer, Ports
from auth.settings import Settings

_SERVICE = auth_pb2.DESCRIPTOR.services_by_name["AuthService"].full_name
_PEOPLE = people_pb2.DESCRIPTOR.services_by_name["PeopleService"].full_name
_AUDIT = audit_pb2.DESCRIPTOR.services_by_name["AuditService"].full_name
_REDIS_SECONDS = 0.25
_ACCESS_KEYS = access_keys_pb2.DESCRIPTOR.services_by_name["AccessKeyService"].full_name
_PAYLOAD_KEYS = payload_keys_pb2.DESCRIPTOR.services_by_name["PayloadKeyService"].full_name
_PRIVACY = privacy_pb2.DESCRIPTOR.services_by_name["PrivacyService"].full_name


@dataclass(frozen=True, slots=True)
class Parts:
    """What this process is made of: for the service, and for the commands of its operators."""

    engines: tuple[AsyncEngine, ...]
    data_keys: DataKeys
    subject_keys: PostgresSubjectKeys
    subjects: SubjectSealer
    erasures: PostgresErasures
    people: PostgresPeople
    sessions: PostgresSessions
    audit: PostgresAudit
    changes: PostgresChanges
    relay: Callable[[Log], AuditRelay]
    signing_keys: PostgresSigningKeys
    access_keys: PostgresAccessKeys
    payload_keys: PostgresPayloadKeys
    payload_kinds: Kinds
    revocations: PostgresRevocations
    common: ListedPasswords
    passwords: Argon2Passwords
    key_encryption_key: KeyEncryptionKey
    forge: KeyForge


def now() -> datetime:
    """The present moment."""
    return datetime.now(UTC)


def fresh_secret() -> str:
    """32 random bytes in base64url."""
    return secrets.token_urlsafe(SECRET_BYTES)


async def key_encryption_key_of(settings: Settings) -> KeyEncryptionKey:
    """The key-encryption key that the settings name, from the KMS if they name one.

    Raises:
        KeyEncryptionKeyError: there is no usable one.
    """
    if settings.key_encryption_key_file is None:
        raise KeyEncryptionKeyError(
            "ALMAGEST_KEY_ENCRYPTION_KEY_FILE is not set: it names a file with 32 random bytes in base64"
        )
    files = (settings.key_encryption_key_file, *settings.older_key_encryption_key_files)
    if settings.key_management_socket is None:
        return KeyEncryptionKey.read(*files)
    async with plugin(settings.key_management_socket, seconds=settings.key_management_seconds) as kms:
        return KeyEncryptionKey(*await unwrapped(kms, files))


@asynccontextmanager
async def assembled(settings: Settings) -> AsyncGenerator[Parts]:
    """Make the parts, and take them apart again.

    Raises:
        KeyEncryptionKeyError: there is no usable key-encryption key.
    """
    key_encryption_key = await key_encryption_key_of(settings)
    async with AsyncExitStack() as stack:
        shards = Shards(len(settings.database_urls))
        engines: list[AsyncEngine] = []
        for name, dsn in zip(shards.names, settings.database_urls, strict=True):
            engine = create_engine(dsn, name=name, size=settings.pool_size, hide_parameters=True)
            stack.push_async_callback(engine.dispose)
            engines.append(engine)
        sessions = sharded_sessions(shards, engines)
        data_keys = DataKeys(sessions, shards, key_encryption_key, clock=now)
        for engine in engines:
            seal_with(engine, data_keys.ring)
        await data_keys.open()
        subject_keys = PostgresSubjectKeys(sessions, shards, clock=now)
        revocations = PostgresRevocations(sessions, shards)
        passwords = Argon2Passwords()
        stack.callback(passwords.close)
        subjects = SubjectSealer(subject_keys, key_encryption_key)
        audit = PostgresAudit(sessions, subjects, clock=now, fresh_id=uuid7)
        yield Parts(
            engines=tuple(engines),
            data_keys=data_keys,
            subject_keys=subject_keys,
            subjects=subjects,
            erasures=PostgresErasures(
                sessions, key_encryption_key, subject_keys=subject_keys, revocations=revocations, audit=audit
            ),
            people=PostgresPeople(sessions, data_keys, audit, fresh_id=uuid7),
            sessions=PostgresSessions(sessions, revocations),
            audit=audit,
            changes=PostgresChanges(sessions, revocations, idle_limit=settings.session_idle_limit, clock=now),
            relay=lambda log: AuditRelay(sessions, shards, log, holder=uuid7(), clock=now),
            signing_keys=PostgresSigningKeys(sessions, shards, audit),
            payload_keys=PostgresPayloadKeys(sessions, shards),
            payload_kinds={
                suite: (PostgresPayloadKeys(sessions, shards, suite), PayloadKeyForge(key_encryption_key, suite))
                for suite in Suite
            },
            access_keys=PostgresAccessKeys(sessions, revocations, key_encryption_key, audit),
            revocations=revocations,
            common=ListedPasswords(),
            passwords=passwords,
            key_encryption_key=key_encryption_key,
            forge=KeyForge(key_encryption_key),
        )


def _access_key_ports(settings: Settings, parts: Parts) -> access_keys.Ports:
    return access_keys.Ports(
        keys=parts.access_keys,
        people=parts.people,
        terms=access_key_rules.Terms(
            most=settings.access_keys_per_person,
            usual=timedelta(days=min(settings.access_key_days, settings.access_key_longest_days)),
            longest=timedelta(days=settings.access_key_longest_days),
        ),
        clock=now,
        fresh_id=uuid7,
        fresh_secret=lambda: secrets.token_bytes(access_key_rules.KEY_BYTES),
        fresh_pair=fresh_pair,
    )


_SEARCHED = ("event-store", "catalog-query", "worker")
"""Who keeps something beside auth. What each says of itself is searched last, Redis with the worker's."""


@asynccontextmanager
async def _forgetting(
    settings: Settings, chassis: Chassis[Settings], parts: Parts
) -> AsyncGenerator[tuple[Forgetting, list[str]]]:
    """The use case, and what it cannot search."""
    async with AsyncExitStack() as stack:
        databases: list[Database] = []
        for number, dsn in enumerate(settings.database_urls):
            database = await Database.open(
                dsn, name=f"users_{number}_search", size=1, min_size=0, statement_timeout=60.0
            )
            stack.push_async_callback(database.close)
            databases.append(database)
        reached = [name for name in _SEARCHED if getattr(settings, f"{name.replace('-', '_')}_target")]
        places = EveryPlace(
            databases=databases,
            directories=settings.search_directories,
            channels={name: chassis.channel(name) for name in reached},
        )
        unreached = [f"what {name} keeps: auth was not told where it is" for name in _SEARCHED if name not in reached]
        if not settings.search_directories:
            unreached.append("logs and traces: auth was not told where they are (ALMAGEST_SEARCH_DIRECTORIES)")
        yield (
            Forgetting(erasures=parts.erasures, places=places, forgotten=parts.subjects.invalidate, clock=now),
            unreached,
        )


def heed(revocations: Revocations, parts: Parts) -> None:
    """Do not go by what this replica remembers of a session or a person that was revoked, by whichever replica."""

    def heard(revocation: Revocation) -> None:
        parts.sessions.forget(revocation)
        if revocation.kind is Revoked.PERSON:
            parts.subjects.invalidate(UUID(revocation.id))

    revocations.listen(heard)


def _ledger(settings: Settings, stack: AsyncExitStack) -> Ledger:
    """Where tries of passwords are counted."""
    alone = LocalLedger()
    if settings.redis_url is None:
        return alone
    redis = connect(settings.redis_url, identity_directory=settings.identity_directory, timeout=_REDIS_SECONDS)
    stack.push_async_callback(redis.aclose)
    return RedisLedger(redis, alone)


@asynccontextmanager
async def bootstrap(settings: Settings, chassis: Chassis[Settings]) -> AsyncGenerator[Assembly]:
    """Put the service together."""
    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(assembled(settings))
        forgetting, unreached = await stack.enter_async_context(_forgetting(settings, chassis, parts))
        key_ring = KeyRing(
            keys=parts.signing_keys,
            key_encryption_key=parts.key_encryption_key,
            overlap=settings.key_overlap,
            clock=now,
        )
        key_ring.take(await ensure_keys(keys=parts.signing_keys, forge=parts.forge, clock=now))
        await ensure_payload_keys(parts.payload_kinds, clock=now)

        async def jwks() -> bytes:
            return key_ring.jwks()

        chassis.verify_with(jwks)
        heed(chassis.revocations, parts)
        await parts.revocations.read(chassis.revocations)
        attempts = Attempts(_ledger(settings, stack), digest=parts.key_encryption_key.digest)
        ports = Ports(
            people=parts.people,
            common=parts.common,
            passwords=parts.passwords,
            sessions=parts.sessions,
            audit=parts.audit,
            attempts=attempts,
            fingerprints=parts.key_encryption_key,
            signer=key_ring,
            news=RevocationNews(chassis.revocations, lambda: parts.revocations.current),
            terms=Terms(
                issuer=str(SpiffeId.of("auth", settings.trust_domain)),
                trust_domain=settings.trust_domain,
                access_lifetime=settings.access_lifetime,
                session_lifetime=settings.session_lifetime,
                idle_limit=settings.session_idle_limit,
                transaction_lifetime=settings.transaction_lifetime,
                clock=now,
                fresh_id=uuid7,
                fresh_secret=fresh_secret,
            ),
        )

        async def databases_answer() -> None:
            for engine in parts.engines:
                async with engine.connect() as connection:
                    await connection.execute(text("SELECT 1"))

        async def watch_keys() -> None:
            await key_ring.watch(settings.key_refresh_seconds)

        async def watch_data_keys() -> None:
            await parts.data_keys.watch(settings.key_refresh_seconds)

        async def renew_payload_keys() -> None:
            await keep_renewing(
                parts.payload_kinds,
                clock=now,
                lifetime=settings.payload_key_lifetime,
                published_for=settings.key_publication,
                every=settings.payload_key_look_seconds,
            )

        async def watch_revocations() -> None:
            await parts.revocations.watch(chassis.revocations)

        async def search_for_traces() -> None:
            await forgetting.watch(settings.erasure_look_seconds)

        rotation = Rotation(
            parts.engines, parts.data_keys, parts.key_encryption_key, clock=now, settle=settings.key_settlement
        )
        privacy = PrivacyServicer(
            forgetting,
            signer=key_ring,
            issuer=ports.terms.issuer,
            unreached=unreached,
            rotate=lambda keys: rotation.run(Keys(keys)),
        )
        tasks: list[Task] = [watch_keys, watch_data_keys, watch_revocations, renew_payload_keys, search_for_traces]
        tasks.append(partial(tell, chassis.refusals, partial(keep_denials, parts.audit)))
        if settings.event_store_target is not None:
            log = event_store_pb2_grpc.EventStoreServiceStub(chassis.channel("event-store"))
            tasks.append(parts.relay(log).run)
        people_ports = changes.Ports(
            changes=parts.changes,
            people=parts.people,
            common=parts.common,
            passwords=parts.passwords,
            fingerprints=parts.key_encryption_key,
            attempts=attempts,
            audit=parts.audit,
            clock=now,
        )
        yield Assembly(
            servicers=[
                (_PEOPLE, people_pb2_grpc.add_PeopleServiceServicer_to_server, PeopleServicer(people_ports, ERRORS)),
                (_AUDIT, audit_pb2_grpc.add_AuditServiceServicer_to_server, AuditServicer(parts.audit)),
                (_PRIVACY, privacy_pb2_grpc.add_PrivacyServiceServicer_to_server, privacy),
                (_SERVICE, auth_pb2_grpc.add_AuthServiceServicer_to_server, AuthServicer(ports)),
                (
                    _ACCESS_KEYS,
                    access_keys_pb2_grpc.add_AccessKeyServiceServicer_to_server,
                    AccessKeyServicer(_access_key_ports(settings, parts), signer=key_ring, terms=ports.terms),
                ),
                (
                    _PAYLOAD_KEYS,
                    payload_keys_pb2_grpc.add_PayloadKeyServiceServicer_to_server,
                    PayloadKeyServicer(
                        keys=parts.payload_keys,
                        key_encryption_key=parts.key_encryption_key,
                        overlap=settings.payload_key_overlap,
                        clock=now,
                    ),
                ),
            ],
            policy=POLICY,
            errors=ERRORS,
            tasks=tasks,
            probes={"databases": databases_answer},
        )
