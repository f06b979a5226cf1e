BEGIN

INSERT INTO kv VALUES (1, 'prepared', null)

PREPARE TRANSACTION 'gid one'

COMMIT PREPARED 'gid one'

BEGIN

INSERT INTO kv VALUES (2, 'rolled back', null)

PREPARE TRANSACTION 'gid two'

ROLLBACK PREPARED 'gid two'

BEGIN

INSERT INTO kv VALUES (3, 'large', null)

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

PREPARE TRANSACTION 'gid three'

INSERT INTO full_row VALUES (1, 'between', null)

COMMIT PREPARED 'gid three'

BEGIN

INSERT INTO kv VALUES (4, 'large', null)

SAVEPOINT a

INSERT INTO kv VALUES (5, 'in a sub-transaction', null)

ROLLBACK TO a

INSERT INTO noise SELECT repeat('n', 400) FROM generate_series(1, 250)

PREPARE TRANSACTION 'gid four'

ROLLBACK PREPARED 'gid four'
