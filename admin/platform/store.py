"""What the operations ask of the state and write into it, in the model's nouns. One Store lives for one
transaction.

No rule is decided here: names are looked up, rows become values, values become rows. Whoever wants a change
goes through `operations`. Every method that writes marks the Store as changed, so that watchers hear of it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, func, insert, or_, select, update

from admin.platform.model import Addon, App, Attachment, Credential, LogDrain, NamedPool, Release, Token
from admin.platform.names import DATABASE
from admin.platform.schema import (
    ADDONS,
    APPS,
    ATTACHMENTS,
    CHANGES,
    CONFIG,
    CREDENTIALS,
    LOG_DRAINS,
    NAMED_POOLS,
    RELEASES,
    TOKEN_APPS,
    TOKENS,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table


def new_id() -> str:
    return str(uuid.uuid4())


class Store:
    """Queries and writes over one open transaction. `now` is its moment, whole Unix seconds."""

    def __init__(self, connection: Connection, now: int) -> None:
        self._connection = connection
        self.now = now
        self.changed = False

    # --- reading and writing, the two ways in

    def _rows(self, statement: Any) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self._connection.execute(statement)]

    def _first(self, statement: Any) -> tuple[Any, ...] | None:
        row = self._connection.execute(statement).first()
        return None if row is None else tuple(row)

    def _write(self, statement: Any) -> None:
        self.changed = True
        self._connection.execute(statement)

    def _insert(self, table: Table, **values: Any) -> None:
        self._write(insert(table).values(**values))

    # --- the change counter

    def counter(self) -> int:
        return int(self._connection.execute(select(CHANGES.c.counter)).scalar_one())

    def count_change(self) -> None:
        self._connection.execute(update(CHANGES).values(counter=CHANGES.c.counter + 1))

    # --- apps

    def apps(self) -> list[App]:
        return [App(*row) for row in self._rows(select(APPS).order_by(APPS.c.name))]

    def app(self, identity: str) -> App | None:
        """The app of this name or id."""
        row = self._first(select(APPS).where(or_(APPS.c.name == identity, APPS.c.id == identity)))
        return App(*row) if row else None

    def add_app(self, name: str) -> App:
        app = App(new_id(), name, self.now, self.now)
        self._insert(APPS, id=app.id, name=name, created_at=self.now, updated_at=self.now)
        return app

    def remove_app(self, app: App) -> None:
        self._write(delete(APPS).where(APPS.c.id == app.id))

    # --- config vars set by hand

    def config(self, app_id: str) -> dict[str, str]:
        statement = select(CONFIG.c.name, CONFIG.c.value).where(CONFIG.c.app_id == app_id)
        rows = self._rows(statement.order_by(CONFIG.c.name))
        return {name: value for name, value in rows}

    def set_config(self, app_id: str, name: str, value: str | None) -> None:
        """Set one config var, or remove it with None."""
        self._write(delete(CONFIG).where(CONFIG.c.app_id == app_id, CONFIG.c.name == name))
        if value is not None:
            self._insert(CONFIG, app_id=app_id, name=name, value=value)

    # --- releases

    def releases(self, app_id: str) -> list[Release]:
        """Oldest first."""
        statement = select(RELEASES).where(RELEASES.c.app_id == app_id).order_by(RELEASES.c.version)
        return [Release(*row) for row in self._rows(statement)]

    def last_version(self, app_id: str) -> int:
        """The version of the app's newest release; 0 when it has none."""
        statement = select(func.max(RELEASES.c.version)).where(RELEASES.c.app_id == app_id)
        found = self._connection.execute(statement).scalar()
        return int(found or 0)

    def add_release(self, app_id: str, description: str, user: str) -> Release:
        release = Release(new_id(), app_id, self.last_version(app_id) + 1, description, user, self.now)
        self._insert(
            RELEASES,
            id=release.id,
            app_id=app_id,
            version=release.version,
            description=description,
            user=user,
            created_at=self.now,
        )
        self._write(update(APPS).where(APPS.c.id == app_id).values(updated_at=self.now))
        return release

    # --- add-ons

    def addons(self, *, app_id: str | None = None) -> list[Addon]:
        """All databases, or those that one app owns, oldest first."""
        statement = _addons().order_by(ADDONS.c.created_at, ADDONS.c.name)
        if app_id is not None:
            statement = statement.where(ADDONS.c.app_id == app_id)
        return [Addon(*row) for row in self._rows(statement)]

    def addon(self, identity: str) -> Addon | None:
        """The database of this name or id."""
        row = self._first(_addons().where(or_(ADDONS.c.name == identity, ADDONS.c.id == identity)))
        return Addon(*row) if row else None

    def add_addon(self, addon: Addon) -> None:
        values = {name: getattr(addon, name) for name in _names(ADDONS)}
        self._insert(ADDONS, **values)

    def remove_addon(self, addon: Addon) -> None:
        self._write(delete(ADDONS).where(ADDONS.c.id == addon.id))

    def set_following(self, addon: Addon, leader: str | None) -> None:
        self._write(update(ADDONS).where(ADDONS.c.id == addon.id).values(following=leader))

    # --- credentials

    def credentials(self, addon_id: str) -> list[Credential]:
        c = CREDENTIALS.c
        statement = select(CREDENTIALS).where(c.addon_id == addon_id).order_by(c.created_at, c.name)
        return [Credential(*row) for row in self._rows(statement)]

    def credential(self, addon_id: str, name: str) -> Credential | None:
        statement = select(CREDENTIALS).where(CREDENTIALS.c.addon_id == addon_id, CREDENTIALS.c.name == name)
        row = self._first(statement)
        return Credential(*row) if row else None

    def all_credentials(self) -> dict[tuple[str, str], Credential]:
        """Every credential by (add-on id, name)."""
        return {(row[0], row[1]): Credential(*row) for row in self._rows(select(CREDENTIALS))}

    def add_credential(self, credential: Credential) -> None:
        values = {name: getattr(credential, name) for name in _names(CREDENTIALS)}
        self._insert(CREDENTIALS, **values)

    def remove_credential(self, credential: Credential) -> None:
        where = (CREDENTIALS.c.addon_id == credential.addon_id, CREDENTIALS.c.name == credential.name)
        self._write(delete(CREDENTIALS).where(*where))

    # --- attachments

    def attachments(self, *, app_id: str | None = None, addon_id: str | None = None) -> list[Attachment]:
        """Attachments of an app, of a database, or all: DATABASE first, then as they were made."""
        first = ATTACHMENTS.c.name != DATABASE
        statement = _attachments().order_by(first, ATTACHMENTS.c.created_at, ATTACHMENTS.c.name)
        if app_id is not None:
            statement = statement.where(ATTACHMENTS.c.app_id == app_id)
        if addon_id is not None:
            statement = statement.where(ATTACHMENTS.c.addon_id == addon_id)
        return [Attachment(*row) for row in self._rows(statement)]

    def attachment(self, app_id: str, identity: str) -> Attachment | None:
        """An app's attachment by name or id."""
        by = or_(ATTACHMENTS.c.name == identity, ATTACHMENTS.c.id == identity)
        row = self._first(_attachments().where(ATTACHMENTS.c.app_id == app_id, by))
        return Attachment(*row) if row else None

    def attachment_by_id(self, identity: str) -> Attachment | None:
        row = self._first(_attachments().where(ATTACHMENTS.c.id == identity))
        return Attachment(*row) if row else None

    def add_attachment(self, app: App, addon: Addon, name: str, namespace: str | None) -> Attachment:
        made = Attachment(new_id(), name, app.id, app.name, addon.id, namespace, self.now, self.now)
        self._insert(
            ATTACHMENTS,
            id=made.id,
            name=name,
            app_id=app.id,
            addon_id=addon.id,
            namespace=namespace,
            created_at=self.now,
            updated_at=self.now,
        )
        return made

    def remove_attachment(self, attachment: Attachment) -> None:
        self._write(delete(ATTACHMENTS).where(ATTACHMENTS.c.id == attachment.id))

    # --- named pools

    def named_pools(self, addon_id: str | None = None) -> list[NamedPool]:
        """Of a database, or all, by name: those that an attachment names."""
        statement = select(NAMED_POOLS).order_by(NAMED_POOLS.c.addon_id, NAMED_POOLS.c.name)
        if addon_id is not None:
            statement = statement.where(NAMED_POOLS.c.addon_id == addon_id)
        held = {(attachment.addon_id, attachment.pool) for attachment in self.attachments(addon_id=addon_id)}
        return [pool for row in self._rows(statement) if ((pool := NamedPool(*row)).addon_id, pool.name) in held]

    def put_named_pool(self, pool: NamedPool) -> None:
        """As it is from now on, whether or not it was there."""
        c = NAMED_POOLS.c
        self._write(delete(NAMED_POOLS).where(c.addon_id == pool.addon_id, c.name == pool.name))
        self._insert(NAMED_POOLS, **{name: getattr(pool, name) for name in _names(NAMED_POOLS)})

    # --- log drains

    def log_drains(self, app_id: str | None = None) -> list[LogDrain]:
        """An app's, or all, oldest first."""
        statement = select(LOG_DRAINS).order_by(LOG_DRAINS.c.created_at, LOG_DRAINS.c.id)
        if app_id is not None:
            statement = statement.where(LOG_DRAINS.c.app_id == app_id)
        return [LogDrain(*row) for row in self._rows(statement)]

    def add_log_drain(self, drain: LogDrain) -> None:
        self._insert(LOG_DRAINS, **{name: getattr(drain, name) for name in _names(LOG_DRAINS)})

    def remove_log_drain(self, drain: LogDrain) -> None:
        self._write(delete(LOG_DRAINS).where(LOG_DRAINS.c.id == drain.id))

    # --- tokens

    def tokens(self) -> list[Token]:
        rows = self._rows(select(TOKENS).order_by(TOKENS.c.created_at, TOKENS.c.id))
        return [self._token(row) for row in rows]

    def token(self, digest: str) -> Token | None:
        row = self._first(select(TOKENS).where(TOKENS.c.hash == digest))
        return self._token(row) if row else None

    def add_token(self, digest: str, description: str, apps: Sequence[App] | None) -> Token:
        reach = None if apps is None else frozenset(app.id for app in apps)
        token = Token(new_id(), description, reach, self.now)
        self._insert(
            TOKENS,
            id=token.id,
            hash=digest,
            description=description,
            everything=int(apps is None),
            created_at=self.now,
        )
        for app_id in token.apps or ():
            self._insert(TOKEN_APPS, token_id=token.id, app_id=app_id)
        return token

    def remove_token(self, token: Token) -> None:
        self._write(delete(TOKENS).where(TOKENS.c.id == token.id))

    def _token(self, row: tuple[Any, ...]) -> Token:
        identity, _hash, description, everything, created_at = row
        if everything:
            return Token(identity, description, None, created_at)
        rows = self._rows(select(TOKEN_APPS.c.app_id).where(TOKEN_APPS.c.token_id == identity))
        return Token(identity, description, frozenset(app_id for (app_id,) in rows), created_at)


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def _addons() -> Any:
    """Addon's fields in their order: the table's columns with the owner's name after its id."""
    columns: list[Any] = []
    for column in ADDONS.columns:
        columns.append(column)
        if column.name == "app_id":
            columns.append(APPS.c.name)
    return select(*columns).join(APPS, APPS.c.id == ADDONS.c.app_id)


def _attachments() -> Any:
    a = ATTACHMENTS.c
    columns: list[Any] = [
        a.id,
        a.name,
        a.app_id,
        APPS.c.name,
        a.addon_id,
        a.namespace,
        a.created_at,
        a.updated_at,
    ]
    return select(*columns).join(APPS, APPS.c.id == a.app_id)
