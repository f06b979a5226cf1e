-- PostgreSQL 14 sends Begin and Commit for these; later versions nothing.
INSERT INTO noise VALUES ('unpublished')

BEGIN

SAVEPOINT a

INSERT INTO kv VALUES (1, 'rolled back', null)

ROLLBACK TO a

INSERT INTO noise VALUES ('unpublished too')

COMMIT

BEGIN

SELECT pg_logical_emit_message(true, 'app/only', '')

COMMIT

UPDATE kv SET note = 'of no row'

INSERT INTO kv VALUES (2, 'published', null)
