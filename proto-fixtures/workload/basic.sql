INSERT INTO kv VALUES (1, 'one', null), (2, 'zwei ü €', repeat('x', 3000)), (3, '', '')

UPDATE kv SET note = 'uno' WHERE id = 1

-- The long value is not changed, and not sent again.
UPDATE kv SET note = 'dos' WHERE id = 2

UPDATE kv SET id = 4 WHERE id = 3

DELETE FROM kv WHERE id = 1

INSERT INTO full_row VALUES (1, 'a', '\x00ff'), (2, null, null)

UPDATE full_row SET "Mixed Case" = 'b' WHERE id = 1

DELETE FROM full_row WHERE id = 2

BEGIN

INSERT INTO typed VALUES
  (1, 'calm', 7, '2026-11-21 03:25:17.123456+00', 12345.678, '{"a": [1, 2, {"b": null}]}', '{x,"y z"}', true)

INSERT INTO typed (id) VALUES (2)

INSERT INTO gen (id, note) VALUES (1, 'generated')

SAVEPOINT s

INSERT INTO typed VALUES (3)

ROLLBACK TO s

TRUNCATE kv RESTART IDENTITY

SELECT pg_logical_emit_message(true, 'app/note', 'inside')

COMMIT

SELECT pg_logical_emit_message(false, 'app/beat', E'at once\nsecond line')

TRUNCATE kv, gen CASCADE

ALTER TABLE kv ADD COLUMN extra int DEFAULT 5

INSERT INTO kv VALUES (9, 'after alter', null, 6)
