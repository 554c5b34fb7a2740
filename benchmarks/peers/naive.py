"""A simple event gateway: commit, run in a process pool, commit, send to all.

Every step follows the libraries' own tutorials: a pydantic body, an AsyncSession for each request,
`run_in_executor` with a ProcessPoolExecutor, `send_json` to each socket. It syncs as Busway does: WAL with
`synchronous=FULL`. The environment variable NAIVE_DATABASE names the database file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel
from sqlalchemy import JSON, ForeignKey, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry


class Base(DeclarativeBase):
    type_annotation_map = {Any: JSON}  # noqa: RUF012


class StoredEvent(Base):
    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True)
    type: Mapped[str]
    data: Mapped[Any]
    created_at: Mapped[datetime]


class StoredResult(Base):
    __tablename__ = "results"
    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[int] = mapped_column(ForeignKey("events.id"), index=True)
    data: Mapped[Any]
    created_at: Mapped[datetime]


class NewEvent(BaseModel):
    type: str
    data: Any = None


def noop(kind: str, data: object) -> None:
    """The handler."""


engine = create_async_engine(f"sqlite+aiosqlite:///{os.environ['NAIVE_DATABASE']}")
sessions = async_sessionmaker(engine, expire_on_commit=False)
sockets: set[WebSocket] = set()


@event.listens_for(engine.sync_engine, "connect")
def set_up(connection: DBAPIConnection, _entry: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=30000")
    cursor.close()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        app.state.pool = pool
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/v1/events", status_code=202)
async def publish(new: NewEvent) -> dict[str, int]:
    async with sessions() as session:
        stored = StoredEvent(type=new.type, data=new.data, created_at=datetime.now(UTC))
        session.add(stored)
        await session.commit()
        returned = await asyncio.get_running_loop().run_in_executor(app.state.pool, noop, new.type, new.data)
        result = StoredResult(event_id=stored.id, data=returned, created_at=datetime.now(UTC))
        session.add(result)
        await session.commit()
    for socket in list(sockets):
        await socket.send_json({"event": stored.id, "type": stored.type, "result": result.data})
    return {"id": stored.id}


@app.websocket("/v1/subscribe")
async def subscribe(socket: WebSocket) -> None:
    await socket.accept()
    sockets.add(socket)
    try:
        while True:
            await socket.receive_text()
    except WebSocketDisconnect:
        pass
    finally:
        sockets.discard(socket)
