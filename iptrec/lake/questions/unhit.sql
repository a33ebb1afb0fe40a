-- Rules that no packet hit on any host; of how many recordings that is not sure.
-- A rule of an inet, bridge or netdev table is one rule for IPv4 and IPv6: its family is the table's.
-- :limit number 1000: rows, those on most hosts
WITH named AS (
  SELECT rule_id, table_name, chain, spec,
    CASE
      WHEN table_name LIKE 'inet %' THEN 'inet'
      WHEN table_name LIKE 'bridge %' THEN 'bridge'
      WHEN table_name LIKE 'netdev %' THEN 'netdev'
      ELSE family
    END AS family
  FROM rules
), single AS (
  SELECT named.*, min(rule_id) OVER (PARTITION BY family, table_name, chain, spec) AS one FROM named
), hit AS (
  SELECT DISTINCT r.one
  FROM (SELECT DISTINCT rule_id FROM steps WHERE rule_id IS NOT NULL) s
  JOIN single r ON r.rule_id = s.rule_id
)
SELECT
  r.family,
  r.table_name,
  r.chain,
  r.spec AS rule,
  count(DISTINCT p.host) AS hosts,
  count(DISTINCT p.recording) AS recordings,
  count(DISTINCT CASE
    WHEN p.untraced IS NOT NULL OR g.lost > 0 OR g.uncounted > 0 OR g.incomplete > 0 OR g.ambiguous > 0
      OR g.closed = 0 OR g.filter IS NOT NULL
    THEN p.recording
  END) AS unsure,
  r.one AS rule_id
FROM places p
JOIN single r ON r.rule_id = p.rule_id
JOIN recordings g ON g.recording = p.recording
LEFT JOIN hit h ON h.one = r.one
WHERE h.one IS NULL
GROUP BY r.family, r.table_name, r.chain, r.spec, r.one
ORDER BY hosts DESC, recordings DESC, r.family, r.table_name, r.chain, r.spec, r.one
LIMIT :limit
