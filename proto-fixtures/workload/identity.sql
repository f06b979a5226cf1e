CREATE TABLE by_index (a int NOT NULL, b text NOT NULL, c text)

CREATE UNIQUE INDEX by_index_key ON by_index (b, a)

ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_key

CREATE TABLE insert_only (v text)

CREATE TABLE two_keys (tenant int, id int, v text, PRIMARY KEY (tenant, id))

CREATE TABLE long_full (id int, big text)

ALTER TABLE long_full ALTER big SET STORAGE external, REPLICA IDENTITY FULL

CREATE TABLE long_key (big text PRIMARY KEY, v int)

ALTER PUBLICATION p ADD TABLE by_index, insert_only, two_keys, long_full, long_key

INSERT INTO by_index VALUES (1, 'one', null)

UPDATE by_index SET c = 'same key'

UPDATE by_index SET b = 'two'

DELETE FROM by_index

INSERT INTO insert_only VALUES ('no key, nothing but inserts'), (null)

INSERT INTO two_keys VALUES (1, 1, 'a'), (1, 2, 'b')

UPDATE two_keys SET id = id + 10 WHERE id = 1

UPDATE two_keys SET v = 'c' WHERE id = 2

DELETE FROM two_keys

-- A whole old row holds its long values, the new one those that changed.
INSERT INTO long_full VALUES (1, repeat('l', 2500))

UPDATE long_full SET id = 2

UPDATE long_full SET big = null

DELETE FROM long_full

INSERT INTO long_key VALUES (repeat('k', 2200), 1)

UPDATE long_key SET v = 2

DELETE FROM long_key

BEGIN

ALTER TABLE kv REPLICA IDENTITY FULL

INSERT INTO kv VALUES (1, 'full from now on', null)

UPDATE kv SET note = 'new'

ALTER TABLE kv REPLICA IDENTITY DEFAULT

DELETE FROM kv

COMMIT
