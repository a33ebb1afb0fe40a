-- What changed after a time: where packets ended, by rule, of what ends more or less often than before.
-- :time time: such as that of a deployment
-- :times number 2: how many times as large, or as small, the share of the packets is
-- :limit number 1000: rows
WITH counted AS (
  SELECT p.verdict, p.family, p.decided_table AS table_name, p.decided_chain AS chain,
    CASE WHEN p.decided_chain IS NOT NULL AND p.decided_rule IS NULL THEN 'policy' ELSE r.spec END AS rule,
    sum(CASE WHEN p.time_ns < :time THEN 1 ELSE 0 END) AS packets_before,
    sum(CASE WHEN p.time_ns < :time THEN 0 ELSE 1 END) AS packets_after,
    count(DISTINCT CASE WHEN p.time_ns < :time THEN p.host END) AS hosts_before,
    count(DISTINCT CASE WHEN p.time_ns < :time THEN NULL ELSE p.host END) AS hosts_after
  FROM packets p
  LEFT JOIN rules r ON r.rule_id = p.decided_rule_id
  GROUP BY 1, 2, 3, 4, 5
), shares AS (
  SELECT counted.*, sum(packets_before) OVER () AS all_before, sum(packets_after) OVER () AS all_after
  FROM counted
)
SELECT verdict, family, table_name, chain, rule, packets_before, packets_after, hosts_before, hosts_after,
  all_before, all_after
FROM shares
WHERE packets_before * all_after > :times * packets_after * all_before
  OR packets_after * all_before > :times * packets_before * all_after
ORDER BY packets_after + packets_before DESC, verdict, family, table_name NULLS FIRST, chain NULLS FIRST,
  rule NULLS FIRST
LIMIT :limit
