-- iptrec recording, format 4.
-- Times are nanoseconds since the epoch (CLOCK_REALTIME). Written once, never rewritten.

-- The recordings that were merged, a row each.
CREATE TABLE recording (
  id INTEGER PRIMARY KEY,
  file TEXT NOT NULL,                     -- name of the file that it was
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
) STRICT;

-- The network namespaces that were recorded.
CREATE TABLE namespace (
  id INTEGER PRIMARY KEY,
  recording INTEGER NOT NULL REFERENCES recording (id),
  name TEXT,                              -- as the user named it
  inode INTEGER NOT NULL                  -- of /proc/PID/ns/net
) STRICT;

-- Sequences of raw netlink datagrams, each out of one socket.
CREATE TABLE stream (
  id INTEGER PRIMARY KEY,
  namespace INTEGER NOT NULL REFERENCES namespace (id),
  kind TEXT NOT NULL,                     -- "nflog", "nftrace", "nftables" (changes), "rtnetlink" (links), ...
  detail TEXT NOT NULL                    -- JSON object: group, receive_buffer, conntrack
) STRICT;

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

-- Contents of snapshots, each once.
CREATE TABLE blob (
  sha256 TEXT PRIMARY KEY,                -- of the unpacked data, hexadecimal
  encoding TEXT NOT NULL,                 -- "zstd"
  size INTEGER NOT NULL,
  data BLOB NOT NULL
) STRICT;

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

-- Events that the kernel sent and that we did not get.
CREATE TABLE loss (
  id INTEGER PRIMARY KEY,
  stream INTEGER NOT NULL REFERENCES stream (id),
  first_ns INTEGER NOT NULL,              -- it happened between these two times
  last_ns INTEGER NOT NULL,
  events INTEGER,                         -- NULL: not known
  how TEXT NOT NULL                       -- "sequence", "enobufs", "truncated", "overflow", "rules-gone", ...
) STRICT;
