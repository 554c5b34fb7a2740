"""`busway serve`."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import Json, need_server, setting


def serve(
    host: Annotated[str | None, setting("Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, setting("Port to listen on; 0 takes a free one. [default: 8000]")] = None,
    uds: Annotated[
        Path | None, setting("Unix socket to listen on, instead of an address and a port.")
    ] = None,
    uds_mode: Annotated[
        str | None,
        setting("Permissions of the Unix socket: 600 for its owner, 660 also for its group. [default: 600]"),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        setting("Certificate in PEM form, with those of its issuers: serves HTTPS. Read again on changes."),
    ] = None,
    tls_key: Annotated[
        Path | None, setting("Key of the certificate in PEM form. [default: in the file of --tls-cert]")
    ] = None,
    pool: Annotated[
        str | None,
        setting(
            "Where handlers run that do not choose a pool: process, thread or auto. [default: process]",
            "process",
            "thread",
            "auto",
        ),
    ] = None,
    workers: Annotated[
        int | None, setting("Worker processes of the process pool. [default: number of CPUs]")
    ] = None,
    threads: Annotated[
        int | None,
        setting(
            "Threads of the thread pool; also async handlers that one worker runs at once. [default: 32]"
        ),
    ] = None,
    handlers: Annotated[
        Path | None, setting("Folder with handler code, Python files and packages. [default: handlers]")
    ] = None,
    app_dir: Annotated[
        Path | None,
        setting("Root of your own project, from which handlers can import. [default: current directory]"),
    ] = None,
    database_url: Annotated[
        str | None,
        setting(
            "The database: sqlite:///FILE or postgresql://USER@HOST/DATABASE. [default: sqlite:///busway.db]"
        ),
    ] = None,
    node_name: Annotated[
        str | None,
        setting("Name of this node, where several use one database. [default: name of the host]"),
    ] = None,
    broker_url: Annotated[
        str | None,
        setting(
            "A NATS server over which several nodes notify each other: nats://HOST:4222 or tls://HOST:4222, "
            "several separated by commas. [default: PostgreSQL]"
        ),
    ] = None,
    role: Annotated[
        str | None,
        setting(
            "What this node does, where several use one database: all, gateway (runs no handlers) or worker "
            "(serves only health checks and metrics). [default: all]",
            "all",
            "gateway",
            "worker",
        ),
    ] = None,
    max_event_bytes: Annotated[int | None, setting("Largest event, in bytes. [default: 1048576]")] = None,
    max_body_bytes: Annotated[
        int | None, setting("Largest request body, in bytes. [default: 33554432]")
    ] = None,
    max_bodies_bytes: Annotated[
        int | None, setting("Memory for all request bodies under way, in bytes. [default: 268435456]")
    ] = None,
    max_answers_bytes: Annotated[
        int | None,
        setting("Memory for all answers that clients have not read, in bytes. [default: 134217728]"),
    ] = None,
    max_result_bytes: Annotated[
        int | None, setting("Largest result of a handler, in bytes. [default: 16777216]")
    ] = None,
    max_depth: Annotated[
        int | None,
        setting(
            "How many events may cause one another in a row, so that loops of handlers end. [default: 64]"
        ),
    ] = None,
    drain_timeout: Annotated[
        float | None, setting("Seconds that running handlers get to finish at shutdown. [default: 30]")
    ] = None,
    keep_alive: Annotated[
        int | None, setting("Seconds that an idle HTTP connection stays open. [default: 75]")
    ] = None,
    head_timeout: Annotated[
        float | None, setting("Seconds that the head of a request may take. [default: 30]")
    ] = None,
    body_timeout: Annotated[
        float | None,
        setting("Seconds that a request body may stand still, NDJSON excepted. [default: 30]"),
    ] = None,
    min_body_rate: Annotated[
        int | None,
        setting(
            "Bytes a second that a request body must have on average after its first --body-timeout seconds, "
            "NDJSON excepted; 0: any. [default: 1024]"
        ),
    ] = None,
    upload_timeout: Annotated[
        float | None, setting("Seconds that an upload of NDJSON may stand still. [default: 60]")
    ] = None,
    stall_timeout: Annotated[
        float | None,
        setting("Seconds after which a client is cut that reads nothing of what waits for it. [default: 60]"),
    ] = None,
    key_rate: Annotated[
        str | None, setting("Requests of one API key, such as 100/s, 60/m, 1000/h. [default: none]")
    ] = None,
    key_connections: Annotated[
        int | None,
        setting("Open WebSockets and event streams of one API key; 0: any number. [default: 10000]"),
    ] = None,
    key_subscriptions: Annotated[
        int | None, setting("Subscriptions of one API key; 0: any number. [default: 100000]")
    ] = None,
    key_bytes: Annotated[
        int | None,
        setting("Memory for requests under way of one API key, in bytes; 0: any. [default: 134217728]"),
    ] = None,
    address_rate: Annotated[
        str | None, setting("Requests of one address, such as 100/s, 60/m, 1000/h. [default: none]")
    ] = None,
    address_connections: Annotated[
        int | None, setting("Open connections of one address; 0: any number. [default: 1000]")
    ] = None,
    address_subscriptions: Annotated[
        int | None, setting("Subscriptions of one address; 0: any number. [default: 10000]")
    ] = None,
    address_bytes: Annotated[
        int | None,
        setting("Memory for requests and unread answers of one address; 0: any. [default: 67108864]"),
    ] = None,
    unlimited_address: Annotated[
        list[str] | None,
        setting(
            "An address or network without limits for each address, such as 10.1.0.0/16; repeatable. "
            "[default: 127.0.0.0/8, ::1]"
        ),
    ] = None,
    retention: Annotated[
        str | None,
        setting(
            "How long finished events and results are kept, such as 90s, 30m, 12h, 7d, 4w. [default: 7d]"
        ),
    ] = None,
    audit_retention: Annotated[
        str | None, setting("How long entries of the audit log are kept. [default: 90d]")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        setting(
            "Another origin whose web pages may use the gateway, such as https://app.example; repeatable."
        ),
    ] = None,
    trusted_proxies: Annotated[
        list[str] | None,
        setting(
            "A proxy whose X-Forwarded-… and Forwarded headers are believed: an address, a network such as "
            "10.1.0.0/16, or unix; repeatable."
        ),
    ] = None,
    allow_target: Annotated[
        list[str] | None,
        setting(
            "A network that is not public and may get events over https:// or http://, such as 10.1.0.0/16; "
            "repeatable."
        ),
    ] = None,
    max_deliveries: Annotated[
        int | None, setting("Events that are sent to URLs at once. [default: 100]")
    ] = None,
    keys_file: Annotated[
        Path | None, setting("File with API keys that a deployment declares, as digests (TOML).")
    ] = None,
    jwt_issuer: Annotated[
        str | None, setting("Who signs JSON Web Tokens that are accepted instead of API keys: their `iss`.")
    ] = None,
    jwt_audience: Annotated[
        list[str] | None, setting("Audience that tokens must be for: one of their `aud`; repeatable.")
    ] = None,
    jwt_jwks_url: Annotated[
        str | None, setting("Where the issuer publishes its public keys, a JSON Web Key Set.")
    ] = None,
    jwt_key_file: Annotated[
        Path | None, setting("File with public keys of the issuer in PEM, instead of a URL.")
    ] = None,
    jwt_secret_file: Annotated[
        Path | None, setting("File with a secret that the issuer shares, instead of public keys.")
    ] = None,
    jwt_algorithm: Annotated[
        list[str] | None,
        setting(
            "Algorithm with which tokens may be signed; repeatable. [default: RS256, PS256, ES256, EdDSA; "
            "with a shared secret HS256]"
        ),
    ] = None,
    jwt_scope_claim: Annotated[
        list[str] | None,
        setting("Claim with the scopes of a token; repeatable, the first one counts. [default: scope, scp]"),
    ] = None,
    jwt_types_claim: Annotated[
        str | None, setting("Claim with the type patterns of a token. [default: busway_types]")
    ] = None,
    jwt_leeway: Annotated[
        int | None, setting("Seconds by which the clock of the issuer may differ. [default: 10]")
    ] = None,
    reload: Annotated[
        bool | None,
        typer.Option(
            "--reload",
            help="Load handler code again when it or your project changes.",
            show_default=False,
        ),
    ] = None,
    secrets_file: Annotated[
        Path | None,
        setting("Secrets of handlers (ctx.secrets): a file of lines NAME=value, or a folder of files."),
    ] = None,
    worker_user: Annotated[
        str | None, setting("User that runs handler code; only if the gateway runs as root.")
    ] = None,
    worker_nice: Annotated[
        int | None, setting("Added to the nice value of workers, 0 to 19. [default: 0]")
    ] = None,
    worker_file_bytes: Annotated[
        int | None, setting("Largest file that handlers may write, in bytes.")
    ] = None,
    worker_open_files: Annotated[int | None, setting("Files that a worker may have open.")] = None,
    worker_processes: Annotated[
        int | None, setting("Processes and threads that the user of workers may have.")
    ] = None,
    log_format: Annotated[
        str | None,
        setting(
            "How logs look: text, json, or auto (text on a terminal, json otherwise). [default: auto]",
            "auto",
            "text",
            "json",
        ),
    ] = None,
    log_level: Annotated[
        str | None,
        setting(
            "Least level of log lines, also of handlers: debug, info, warning or error. [default: info]",
            "debug",
            "info",
            "warning",
            "error",
        ),
    ] = None,
    json_lines: Json = False,
) -> None:
    """Start the gateway.

    Each option but --json can also be set as an environment variable (--app-dir: BUSWAY_APP_DIR)
    or in a file .env in the current directory. With --json, the first line is a JSON object with the address.
    """
    options = {name: value for name, value in locals().items() if name != "json_lines"}
    gc.disable()  # objects of imports are permanent; the collector starts again when the gateway is ready
    need_server()
    from busway.gateway.store.group.process import launch  # noqa: PLC0415 - other commands start faster

    committer = launch()  # both processes import at the same time
    from busway.gateway import logs, settings  # noqa: PLC0415 - as above

    logs.hold()
    try:
        chosen = settings.load(**options)
    except BaseException:
        logs.configure()
        raise
    logs.configure(chosen.log_format, chosen.log_level)
    from busway.gateway import server  # noqa: PLC0415 - wrong settings are told before its long imports

    raise typer.Exit(server.run(chosen, committer, json_lines=json_lines))
