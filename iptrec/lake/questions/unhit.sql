-- Rules that no packet hit on any host; of how many recordings that is not sure.
-- :limit number 1000: rows, those on most hosts
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
  r.rule_id
FROM places p
JOIN rules r ON r.rule_id = p.rule_id
JOIN recordings g ON g.recording = p.recording
LEFT JOIN (SELECT DISTINCT rule_id FROM steps WHERE rule_id IS NOT NULL) s ON s.rule_id = p.rule_id
WHERE s.rule_id IS NULL
GROUP BY r.family, r.table_name, r.chain, r.spec, r.rule_id
ORDER BY hosts DESC, recordings DESC, r.family, r.table_name, r.chain, r.spec, r.rule_id
LIMIT :limit
