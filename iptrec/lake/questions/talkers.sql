-- The sources whose packets are dropped or rejected most.
-- :limit number 20: rows
SELECT
  family,
  src,
  count(*) AS packets,
  sum(length) AS bytes,
  count(DISTINCT host) AS hosts,
  count(DISTINCT dst) AS destinations,
  min(time_ns) AS first_ns,
  max(time_ns) AS last_ns
FROM packets
WHERE verdict IN ('DROP', 'REJECT')
GROUP BY family, src
ORDER BY packets DESC, family, src NULLS FIRST
LIMIT :limit
