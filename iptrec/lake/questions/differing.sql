-- Flows (protocol, addresses, destination port) whose packets end otherwise on one host than on another.
-- :limit number 1000: rows
WITH fates AS (
  SELECT family, proto, src, dst, dport, host, verdict, count(*) AS packets,
    min(time_ns) AS first_ns, max(time_ns) AS last_ns
  FROM packets
  WHERE verdict <> 'UNKNOWN' AND ambiguous = 0 AND src IS NOT NULL
  GROUP BY family, proto, src, dst, dport, host, verdict
), numbered AS (
  SELECT fates.*, dense_rank() OVER (PARTITION BY family, proto, src, dst, dport ORDER BY host) AS nth,
    count(*) OVER (PARTITION BY family, proto, src, dst, dport, verdict) AS alike
  FROM fates
), compared AS (
  SELECT numbered.*, max(nth) OVER (PARTITION BY family, proto, src, dst, dport) AS hosts,
    min(alike) OVER (PARTITION BY family, proto, src, dst, dport) AS fewest
  FROM numbered
)
SELECT family, proto, src, dst, dport, hosts, host, verdict, packets, first_ns, last_ns
FROM compared
WHERE fewest < hosts
ORDER BY family, proto NULLS FIRST, src, dst, dport NULLS FIRST, host, verdict
LIMIT :limit
