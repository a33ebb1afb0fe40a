-- Recordings of which something is missing: cut off, with losses, with packets that are not whole.
-- missing: rows of packets and steps, and rules, that the recording should have in the lake, and has not.
-- overlapping: copies of a ring that may hold the same packets, which are counted twice.
-- :limit number 1000: rows
SELECT r.host, r.recording, r.started_ns, r.closed, r.stop_reason, r.packets, r.incomplete, r.ambiguous,
  r.unknown, r.lost, r.losses, r.uncounted, COALESCE(o.overlapping, 0) AS overlapping,
  COALESCE(a.missing, 0) AS missing
FROM recordings r
LEFT JOIN (
  SELECT one.recording, count(*) AS overlapping
  FROM recordings one
  JOIN recordings other ON other.uuid = one.uuid
  WHERE other.recording <> one.recording AND other.first_ns <= one.last_ns AND one.first_ns <= other.last_ns
    AND (one.stop_reason = 'SIGUSR1' OR other.stop_reason = 'SIGUSR1')
  GROUP BY one.recording
) o ON o.recording = r.recording
LEFT JOIN (
  SELECT c.recording AS recording, ABS(c.packets - COALESCE(p.packets, 0)) + ABS(c.steps - COALESCE(s.steps, 0))
    + COALESCE(l.rules, 0) AS missing
  FROM recordings c
  LEFT JOIN (SELECT recording, count(*) AS packets FROM packets GROUP BY recording) p
    ON p.recording = c.recording
  LEFT JOIN (SELECT recording, count(*) AS steps FROM steps GROUP BY recording) s
    ON s.recording = c.recording
  LEFT JOIN (
    SELECT i.recording AS recording, count(*) AS rules
    FROM places i
    LEFT JOIN rules u ON u.rule_id = i.rule_id
    WHERE u.rule_id IS NULL
    GROUP BY i.recording
  ) l ON l.recording = c.recording
) a ON a.recording = r.recording
WHERE r.closed = 0 OR r.incomplete > 0 OR r.ambiguous > 0 OR r.unknown > 0 OR r.lost > 0 OR r.losses > 0
  OR o.overlapping > 0 OR a.missing > 0
ORDER BY missing DESC, r.lost DESC, r.uncounted DESC, r.incomplete DESC, r.host, r.recording
LIMIT :limit
