"""The file format: SQLite, its tables, and how its blobs are packed.

``schemas/recording-vN.sql`` is the frozen text of each released format. A new format adds the tables that it
changes here, with its number in their names, and a step to `upgrade.STEPS`; the others are those of before.

History:
  1  the first (0.1.0)
  2  snapshots say what they are written in: lists of the kernel's are its own messages, whole
  3  chunks may have when, and on which processor, the kernel sent each datagram
  4  several recordings in one file: only `iptrec merge` writes it
"""

from __future__ import annotations

from typing import Final

APPLICATION_ID: Final = 0x49505452  # "IPTR"
FORMAT: Final = 3  # of what a recorder writes
MERGED: Final = 4
NEWEST: Final = MERGED

_HEAD: Final = """\
-- iptrec recording, format {}.
-- Times are nanoseconds since the epoch (CLOCK_REALTIME). Written once, never rewritten.
"""

_FACTS: Final = """\
  uuid TEXT NOT NULL,                     -- tags our TRACE rules: comment "iptrec:UUID"
  iptrec TEXT NOT NULL,                   -- version that recorded
  kernel TEXT NOT NULL,                   -- uname -srvm
  host TEXT NOT NULL,
  command TEXT NOT NULL,                  -- JSON list: argv
  filter TEXT,                            -- pcap expression
  families TEXT NOT NULL,                 -- JSON list of "ipv4", "ipv6"
  interfaces TEXT NOT NULL,               -- JSON list; empty: all
  snaplen INTEGER NOT NULL,               -- bytes of each packet
  byte_order TEXT NOT NULL,               -- of the netlink messages: "little" or "big"
  started_ns INTEGER NOT NULL,
  started_monotonic_ns INTEGER NOT NULL,  -- CLOCK_MONOTONIC at started_ns
  stopped_ns INTEGER,
  stop_reason TEXT,
  closed INTEGER NOT NULL DEFAULT 0       -- 1: the recorder ended cleanly
"""

_RECORDING: Final = f"""\
-- One row: the recording itself.
CREATE TABLE recording (
  id INTEGER PRIMARY KEY CHECK (id = 1),
{_FACTS}) STRICT;
"""

_RECORDING_4: Final = f"""\
-- The recordings that were merged, a row each.
CREATE TABLE recording (
  id INTEGER PRIMARY KEY,
  file TEXT NOT NULL,                     -- name of the file that it was
{_FACTS}) STRICT;
"""

_NAMESPACE: Final = """\
-- The network namespaces that were recorded.
CREATE TABLE namespace (
  id INTEGER PRIMARY KEY,
  name TEXT,                              -- as the user named it
  inode INTEGER NOT NULL                  -- of /proc/PID/ns/net
) STRICT;
"""

_NAMESPACE_4: Final = """\
-- The network namespaces that were recorded.
CREATE TABLE namespace (
  id INTEGER PRIMARY KEY,
  recording INTEGER NOT NULL REFERENCES recording (id),
  name TEXT,                              -- as the user named it
  inode INTEGER NOT NULL                  -- of /proc/PID/ns/net
) STRICT;
"""

_STREAM_1: Final = """\
-- Sequences of raw netlink datagrams, each out of one socket.
CREATE TABLE stream (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL REFERENCES namespace (id),
  kind TEXT NOT NULL,                     -- "nflog", "rtnetlink" (links), "conntrack"
  detail TEXT NOT NULL                    -- JSON object: group, receive_buffer, conntrack
) STRICT;
"""

_STREAM_2: Final = """\
-- Sequences of raw netlink datagrams, each out of one socket.
CREATE TABLE stream (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL REFERENCES namespace (id),
  kind TEXT NOT NULL,                     -- "nflog", "nftrace", "nftables" (changes), "rtnetlink" (links), ...
  detail TEXT NOT NULL                    -- JSON object: group, receive_buffer, conntrack
) STRICT;
"""

_CHUNK_1: Final = """\
-- Many datagrams of a stream, in order of arrival. The unpacked data is, little endian:
-- u32 lengths[datagrams]; i64 steps[datagrams] (receive time, less that of the datagram before,
-- the first less first_ns: 0); then the datagrams themselves, back to back. Data that is "zstd" is
-- one frame with its content size in its header.
CREATE TABLE chunk (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (id),
  first_ns INTEGER NOT NULL,              -- receive time of the first datagram
  last_ns INTEGER NOT NULL,               -- and of the last
  datagrams INTEGER NOT NULL,
  encoding TEXT NOT NULL,                 -- "zstd"
  size INTEGER NOT NULL,                  -- bytes unpacked
  data BLOB NOT NULL
) STRICT;
"""

_CHUNK_3: Final = """\
-- Many datagrams of a stream, in order of arrival. The unpacked data is, little endian:
-- u32 lengths[datagrams]; i64 steps[datagrams] (receive time, less that of the datagram before,
-- the first less first_ns: 0); where it is noted, i64 steps[datagrams] (the time when the kernel sent it, 0:
-- not known; less that of the datagram before, the first less first_ns), u16 processors[datagrams] (65535: not
-- known); then the datagrams themselves, back to back. Data that is "zstd" is one frame with its content size
-- in its header.
CREATE TABLE chunk (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (id),
  first_ns INTEGER NOT NULL,              -- receive time of the first datagram
  last_ns INTEGER NOT NULL,               -- and of the last
  datagrams INTEGER NOT NULL,
  noted INTEGER NOT NULL,                 -- 1: when the kernel sent them is noted
  encoding TEXT NOT NULL,                 -- "zstd"
  size INTEGER NOT NULL,                  -- bytes unpacked
  data BLOB NOT NULL
) STRICT;
"""

_BLOB: Final = """\
-- Contents of snapshots, each once.
CREATE TABLE blob (
  sha256 TEXT PRIMARY KEY,                -- of the unpacked data, hexadecimal
  encoding TEXT NOT NULL,                 -- "zstd"
  size INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;
"""

_SNAPSHOT_1: Final = """\
-- What a command printed or a dump returned, and from when on it held. Of rulesets the first one is whole;
-- each further one has a single table, without counters and comments, and says that it changed. One of the
-- kind "iptables-unknown" has a table's name: it changed to something that was gone before it was read.
CREATE TABLE snapshot (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL REFERENCES namespace (id),
  kind TEXT NOT NULL,                     -- "iptables-save", "links", ...
  time_ns INTEGER NOT NULL,               -- it was seen so at this time
  after_ns INTEGER,                       -- and came to be so after this one; NULL: not known
  source TEXT NOT NULL,                   -- command line or name of the dump
  blob TEXT NOT NULL REFERENCES blob (sha256)
) STRICT;
"""

_SNAPSHOT_2: Final = """\
-- What a command printed or a dump returned, and from when on it held. Of rulesets the first one is whole;
-- each further one has a single table, without counters and comments, and says that it changed. One of the
-- kind "iptables-unknown" has a table's name: it changed to something that was gone before it was read.
-- "netlink" is the kernel's answer to a request for a list (NLM_F_DUMP), its messages back to back. The answer
-- is whole where it ends with NLMSG_DONE, was refused where it ends with NLMSG_ERROR, and is cut, because it
-- was too large, where it ends with neither.
CREATE TABLE snapshot (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL REFERENCES namespace (id),
  kind TEXT NOT NULL,                     -- "iptables-save", "links", ...
  media TEXT NOT NULL,                    -- "text", "json" or "netlink"
  time_ns INTEGER NOT NULL,               -- it was seen so at this time
  after_ns INTEGER,                       -- and came to be so after this one; NULL: not known
  source TEXT NOT NULL,                   -- command line or name of the dump
  blob TEXT NOT NULL REFERENCES blob (sha256)
) STRICT;
"""

_LOSS_1: Final = """\
-- Events that the kernel sent and that we did not get.
CREATE TABLE loss (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (id),
  first_ns INTEGER NOT NULL,              -- it happened between these two times
  last_ns INTEGER NOT NULL,
  events INTEGER,                         -- NULL: not known
  how TEXT NOT NULL                       -- "sequence", "enobufs", "truncated"
) STRICT;
"""

_LOSS_2: Final = """\
-- Events that the kernel sent and that we did not get.
CREATE TABLE loss (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (id),
  first_ns INTEGER NOT NULL,              -- it happened between these two times
  last_ns INTEGER NOT NULL,
  events INTEGER,                         -- NULL: not known
  how TEXT NOT NULL                       -- "sequence", "enobufs", "truncated", "rules-gone", "logger-switched"
) STRICT;
"""

_LOSS_3: Final = """\
-- Events that the kernel sent and that we did not get.
CREATE TABLE loss (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (id),
  first_ns INTEGER NOT NULL,              -- it happened between these two times
  last_ns INTEGER NOT NULL,
  events INTEGER,                         -- NULL: not known
  how TEXT NOT NULL                       -- "sequence", "enobufs", "truncated", "overflow", "rules-gone", ...
) STRICT;
"""

# The tables of each format.
_TABLES: Final = {
    1: (_RECORDING, _NAMESPACE, _STREAM_1, _CHUNK_1, _BLOB, _SNAPSHOT_1, _LOSS_1),
    2: (_RECORDING, _NAMESPACE, _STREAM_2, _CHUNK_1, _BLOB, _SNAPSHOT_2, _LOSS_2),
    3: (_RECORDING, _NAMESPACE, _STREAM_2, _CHUNK_3, _BLOB, _SNAPSHOT_2, _LOSS_3),
    4: (_RECORDING_4, _NAMESPACE_4, _STREAM_2, _CHUNK_3, _BLOB, _SNAPSHOT_2, _LOSS_3),
}
SCHEMAS: Final = {
    number: "\n".join([_HEAD.format(number), *tables]) for number, tables in _TABLES.items()
}
SCHEMA: Final = SCHEMAS[FORMAT]
