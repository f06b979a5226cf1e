INSERT INTO kv VALUES (1, 'from here', null)

SELECT pg_replication_origin_create('elsewhere')

SELECT pg_replication_origin_session_setup('elsewhere')

BEGIN

SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2026-11-21 00:00:00+00')

INSERT INTO kv VALUES (10, 'replicated from elsewhere', null)

COMMIT

SELECT pg_replication_origin_session_reset()

INSERT INTO kv VALUES (2, 'from here again', null)

SELECT pg_replication_origin_drop('elsewhere')
