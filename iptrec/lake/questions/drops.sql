-- Which rules and policies dropped or rejected packets, by host.
-- :limit number 100: rows, those with most packets
WITH dropped AS (
  SELECT p.host, p.verdict, p.family, p.decided_table AS table_name, p.decided_chain AS chain,
    CASE WHEN p.decided_chain IS NOT NULL AND p.decided_rule IS NULL THEN 'policy' ELSE r.spec END AS rule,
    p.length, p.time_ns, p.ambiguous
  FROM packets p
  LEFT JOIN rules r ON r.rule_id = p.decided_rule_id
  WHERE p.verdict IN ('DROP', 'REJECT')
)
SELECT host, verdict, family, table_name, chain, rule, count(*) AS packets, sum(length) AS bytes,
  min(time_ns) AS first_ns, max(time_ns) AS last_ns, sum(ambiguous) AS in_doubt
FROM dropped
GROUP BY host, verdict, family, table_name, chain, rule
ORDER BY packets DESC, host, verdict, family, table_name NULLS FIRST, chain NULLS FIRST, rule NULLS FIRST
LIMIT :limit
