INSERT INTO part VALUES (1, '2025-06-01', 'a'), (2, '2026-06-01', 'b')

UPDATE part SET at = '2026-06-01' WHERE id = 1

TRUNCATE part

INSERT INTO "Other"."in schema" VALUES (1)

INSERT INTO chosen VALUES (1, 'not published', 10), (200, 'not published', 20)

-- Into and out of the filter: an insert and a delete to a subscriber.
UPDATE chosen SET id = 2 WHERE id = 200

UPDATE chosen SET id = 300 WHERE id = 1

UPDATE chosen SET secret = 'still not published'
