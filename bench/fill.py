"""Fills a database with stored attachments, a tenth as many messages and a hundredth as many chats of its one partner.

    fill.py COUNT FILE            SQLite
    fill.py COUNT postgres://...  PostgreSQL, by psql
"""

import sqlite3
import subprocess
import sys

count, database = int(sys.argv[1]), sys.argv[2]
# 2025-01-01, before the rows that the benchmark creates.
START = 1_735_689_600_000
postgres = database.startswith("postgres:")


def uuid(number, kind):
    """Returns a UUID of version 7, as the server creates them: sorted by age, and distinct per kind."""
    return f"{(START + number) >> 16:08x}-{(START + number) & 0xFFFF:04x}-7{kind:03x}-8000-{number:012x}"


def one(statement):
    if postgres:
        return subprocess.run(["psql", "-qAtX", database, "-c", statement], check=True, capture_output=True, text=True).stdout.strip()
    return str(connection.execute(statement).fetchone()[0])


def insert(table, columns, rows):
    names = ", ".join(columns)
    if not postgres:
        places = ", ".join("?" * len(columns))
        connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", rows)
        return
    copy = subprocess.Popen(["psql", "-qX", database, "-c", f"COPY {table} ({names}) FROM STDIN"], stdin=subprocess.PIPE, text=True)
    for row in rows:
        copy.stdin.write("\t".join(str(value) for value in row) + "\n")
    copy.stdin.close()
    assert copy.wait() == 0, "COPY failed"


if not postgres:
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA foreign_keys = OFF")
partner, line = one("SELECT id FROM partners"), one("SELECT phone_number FROM lines")
chats, messages = max(count // 100, 1), max(count // 10, 1)
insert(
    "attachments",
    "id partner_id filename declared_type signed_type media_type size_bytes created_at upload_expires_at sha256 md5 stored_at".split(),
    (
        (uuid(n, 1), partner, f"photo-{n}.jpg", "image/jpeg", "image/jpeg", "image/jpeg", 48213, START + n,
         START + n + 900_000, f"{n:064x}", f"{n:032x}", START + n + 500)
        for n in range(count)
    ),
)
insert(
    "chats",
    "id partner_id line recipients last_message_id created_at updated_at".split(),
    (
        (uuid(n, 2), partner, line, f"person{n}@example.com", uuid(messages - chats + n, 4), START + n, START + n)
        for n in range(chats)
    ),
)
insert(
    "participants",
    "id chat_id partner_id handle is_me joined_at".split(),
    (
        (uuid(2 * n + me, 3), uuid(n, 2), partner, line if me else f"person{n}@example.com", me, START + n)
        for n in range(chats) for me in (1, 0)
    ),
)
insert(
    "messages",
    "id partner_id chat_id sender status trace_id created_at updated_at sent_at delivered_at".split(),
    (
        (uuid(n, 4), partner, uuid(n % chats, 2), uuid(2 * (n % chats) + 1, 3), "delivered", f"{n:032x}", START + n,
         START + n, START + n, START + n)
        for n in range(messages)
    ),
)
insert(
    "parts",
    "message_id position kind attachment_id".split(),
    ((uuid(n, 4), 0, "media", uuid(n, 1)) for n in range(messages)),
)
if postgres:
    one("ANALYZE")
else:
    connection.commit()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
