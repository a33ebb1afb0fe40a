-- Which rules and policies dropped or rejected packets, by host.
-- :limit number 100: rows, those with most packets
SELECT
  p.host,
  p.verdict,
  p.family,
  p.decided_table AS table_name,
  p.decided_chain AS chain,
  CASE WHEN p.decided_chain IS NOT NULL AND p.decided_rule IS NULL THEN 'policy' ELSE r.spec END AS rule,
  count(*) AS packets,
  sum(p.length) AS bytes,
  min(p.time_ns) AS first_ns,
  max(p.time_ns) AS last_ns,
  sum(p.ambiguous) AS ambiguous
FROM packets p
LEFT JOIN rules r ON r.rule_id = p.decided_rule_id
WHERE p.verdict IN ('DROP', 'REJECT')
GROUP BY 1, 2, 3, 4, 5, 6
ORDER BY packets DESC, host, verdict, family, table_name NULLS FIRST, chain NULLS FIRST, rule NULLS FIRST
LIMIT :limit
