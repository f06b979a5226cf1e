BEGIN

INSERT INTO kv VALUES (1, 'one', repeat('x', 3000)), (2, 'two', null)

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

INSERT INTO full_row VALUES (1, 'a', '\x01')

SAVEPOINT a

INSERT INTO kv VALUES (3, 'in a sub-transaction', null)

SELECT pg_logical_emit_message(true, 'app/note', 'in a chunk')

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

ROLLBACK TO a

INSERT INTO typed VALUES (1, 'cross', 3, '2026-11-21 00:00:00+00', 1.5, '{"k": 1}', '{}', false)

UPDATE kv SET note = 'uno' WHERE id = 1

UPDATE kv SET id = 20 WHERE id = 2

UPDATE full_row SET id = 2

DELETE FROM full_row

DELETE FROM kv WHERE id = 20

TRUNCATE full_row

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

COMMIT

-- Streamed in part, then taken back as a whole.
BEGIN

INSERT INTO kv VALUES (30, 'never', null)

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

ROLLBACK

BEGIN

INSERT INTO kv VALUES (40, 'streamed', null)

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

SELECT pg_logical_emit_message(false, 'app/beat', 'between chunks')

COMMIT

INSERT INTO kv VALUES (50, 'small', null)
