-- One packet on all hosts that saw it, in order of time, found by what no rule changes.
-- :recording text: the id of a recording that has it
-- :packet number: its number there
-- :within number 10: seconds in which it passes all hosts, their clocks' differences included
WITH wanted AS (
  SELECT packet_key, time_ns FROM packets WHERE recording = :recording AND packet = :packet
), seen AS (
  SELECT p.*, count(*) OVER (PARTITION BY p.recording, p.namespace) AS alike
  FROM packets p
  JOIN wanted w ON w.packet_key = p.packet_key
  WHERE p.time_ns >= w.time_ns - CAST(:within AS BIGINT) * 1000000000
    AND p.time_ns <= w.time_ns + CAST(:within AS BIGINT) * 1000000000
)
SELECT s.host, n.name AS netns, s.recording, s.packet, s.time_ns, s.in_interface, s.out_interface, s.proto,
  s.src, s.sport, s.dst, s.dport, s.ttl, s.verdict, s.decided_table AS table_name, s.decided_chain AS chain,
  r.spec AS rule, CASE WHEN s.key_sure = 1 AND s.alike = 1 THEN 1 ELSE 0 END AS sure
FROM seen s
LEFT JOIN namespaces n ON n.recording = s.recording AND n.id = s.namespace
LEFT JOIN rules r ON r.rule_id = s.decided_rule_id
ORDER BY s.time_ns, s.host, s.recording, s.packet
